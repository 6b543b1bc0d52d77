'use strict'

// What each size costs: how long a message takes to everybody in a room.
//
//   npm run setup && npm run setup:fleet && node examples/fleet/measure.js      MEMBERS=60 MESSAGES=100 ROUNDS=3
//
// The same server.js, as one process; as two workers of one balancer, with Redis; and as the fleet: three hosts with two
// workers each, behind HAProxy. Half of the clients poll. All of it shares one machine, so the delays are those of more
// processes on the same processors; more machines bring more of these.

const { fork, spawn } = require('node:child_process')
const { once } = require('node:events')
const http = require('node:http')
const path = require('node:path')
const { io } = require('socket.io-client')
const sticky = require('../..')
const { Fleet, freePort } = require('./fleet')

const { MEMBERS = '60', MESSAGES = '100', ROUNDS = '3' } = process.env
const SERVER = path.join(__dirname, 'server.js')

main()

async function main() {
  const fleet = new Fleet()
  const ends = [() => fleet.stop()]
  try {
    await fleet.start()
    const alone = await onePort(ends)
    const machine = await oneMachine(ends, fleet.redisAlone)
    const sizes = [
      ['one process', alone],
      ['one machine: a balancer, 2 workers, Redis', machine],
      ['three hosts with 2 workers each, HAProxy, Redis', fleet.port],
    ]
    const results = sizes.map(() => ({ polling: [], websocket: [], all: [] }))
    for (let round = 0; round < Number(ROUNDS); round++) {
      for (const [n, [, port]] of sizes.entries()) await measure(port, results[n])
    }
    console.log(`${MEMBERS} clients, half of them polling; ${MESSAGES} messages in each of ${ROUNDS} rounds; ms\n`)
    console.log('| | WebSocket p50 | p99 | polling p50 | p99 | all have it p50 | p99 |')
    console.log('|---|---|---|---|---|---|---|')
    for (const [n, [name]] of sizes.entries()) {
      const { websocket, polling, all } = results[n]
      const cells = [websocket, polling, all].flatMap((delays) => [quantile(delays, 0.5), quantile(delays, 0.99)])
      console.log(`| ${[name, ...cells.map((delay) => delay.toFixed(1))].join(' | ')} |`)
    }
  } finally {
    for (const end of ends.reverse()) await end()
  }
}

async function onePort(ends) {
  const port = await freePort('127.0.0.1')
  const child = spawn(process.execPath, [SERVER], {
    env: { ...process.env, PORT: `${port}`, REDIS: '' },
    stdio: 'ignore',
  })
  ends.push(() => child.kill('SIGKILL'))
  return port
}

async function oneMachine(ends, redis) {
  const workers = [0, 1].map(() => fork(SERVER, { env: { ...process.env, ...redis } }))
  const balancer = sticky.createBalancer(() => workers, { affinity: { query: 'sid' } })
  balancer.listen(0, '127.0.0.1')
  ends.push(() => {
    balancer.close()
    for (const worker of workers) worker.kill('SIGKILL')
  })
  await once(balancer, 'listening')
  while (!balancer.stats().slots.every(({ pid }) => pid)) await once(balancer, 'slot')
  return balancer.address().port
}

async function measure(port, result) {
  const members = Array.from({ length: Number(MEMBERS) }, (_, n) => {
    const transport = n % 2 ? 'websocket' : 'polling'
    // An address of its own for each: HAProxy tells new clients apart by that.
    const agent = new http.Agent({ localAddress: `127.0.${1 + (n >> 8)}.${n & 255 || 255}` })
    const socket = io(`http://127.0.0.1:${port}`, { transports: [transport], agent, forceNew: true })
    return { transport, socket, agent }
  })
  await Promise.all(members.map(({ socket }) => new Promise((resolve) => socket.once('welcome', resolve))))
  for (let n = 0; n < Number(MESSAGES); n++) {
    const text = `${n}`
    const since = performance.now()
    const heard = members.map(async ({ socket, transport }) => {
      while (true) {
        const said = await new Promise((resolve) => socket.once('said', resolve))
        if (said.text === text) break
      }
      result[transport].push(performance.now() - since)
    })
    members[(n * 7) % members.length].socket.emit('say', text)
    await Promise.all(heard)
    result.all.push(performance.now() - since)
  }
  for (const { socket, agent } of members) {
    socket.disconnect()
    agent.destroy()
  }
}

function quantile(delays, q) {
  const sorted = [...delays].sort((a, b) => a - b)
  return sorted[Math.floor(q * (sorted.length - 1))]
}
