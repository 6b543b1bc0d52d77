'use strict'

// A worker: a chat over socket.io. What rooms and sessions have in common is in Redis, by the adapter of socket.io; this
// file is what it would be behind any other balancer, but for the two lines with `sticky`.
//
// The smallest size is this file alone: PORT=8080 node examples/fleet/server.js

const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { createAdapter } = require('@socket.io/redis-streams-adapter')
const { Redis } = require('ioredis')
const { Server } = require('socket.io')
const sticky = require('../..') // require('sticky-listen') in a program of your own

// Where Redis is, as host:port; or of one with a replica the addresses of their Sentinels, as host:port,host:port. All have
// the same password.
const { NAME = 'h0', PORT = '8080', REDIS, REDIS_SENTINELS, REDIS_PASSWORD, GRACE = '30000' } = process.env

const page = fs.readFileSync(path.join(__dirname, 'public', 'index.html'))

main()

function main() {
  // One process has nobody to share with.
  const redis = (REDIS || REDIS_SENTINELS) && connectRedis()

  const server = http.createServer((request, response) => {
    if (request.url === '/') response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(page)
    else response.writeHead(404, { 'content-type': 'text/plain' }).end('There is nothing here.\n')
  })
  const io = new Server(server, {
    ...(redis && { adapter: createAdapter(redis) }),
    // Who comes back within two minutes has its rooms again, and gets what it missed: at any worker of any host.
    connectionStateRecovery: { maxDisconnectionDuration: 120_000 },
  })
  // The host for HAProxy, and at the end the slot for the balancer.
  io.engine.generateId = (request) => `${NAME}.${sticky.generateId(request)}`

  io.on('connection', (socket) => {
    if (!socket.recovered) socket.join('lobby')
    socket.emit('welcome', { host: NAME, pid: process.pid, address: socket.handshake.address })
    socket.on('say', (text, acknowledge) => {
      io.to('lobby').emit('said', { text: String(text), host: NAME, pid: process.pid })
      if (typeof acknowledge === 'function') acknowledge()
    })
  })

  if (!process.send) return server.listen(Number(PORT))
  sticky.listen(server)

  // Another version has taken over, the host ends, or its balancer is gone.
  process.once('disconnect', () => retire(io, redis))
}

function connectRedis() {
  const redis = new Redis({
    ...(REDIS_SENTINELS ? { name: 'fleet', sentinels: REDIS_SENTINELS.split(',').map(parse) } : parse(REDIS)),
    password: REDIS_PASSWORD,
    sentinelPassword: REDIS_PASSWORD,
    // While Redis is away, what is to be sent waits, for as long as it takes.
    maxRetriesPerRequest: null,
    // Soon, but not all workers at once.
    retryStrategy: pause,
    sentinelRetryStrategy: pause,
  })
  // Without a listener each error is printed. It is told once, and not of every try.
  let told = false
  redis.on('error', (error) => {
    if (!told) console.error(`${NAME}, worker ${process.pid}: Redis: ${error.message || error.code}`)
    told = true
  })
  redis.on('ready', () => {
    told = false
  })
  return redis
}

function pause(tries) {
  return Math.min(50 * 2 ** tries, 500) + Math.random() * 100
}

function parse(address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

/**
 * Ends with its sessions. A WebSocket is one connection, and goes on here. The next request of a session that polls will
 * reach this worker's successor, which does not know it: so it ends now, is kept in Redis, and is recovered there.
 */
async function retire(io, redis) {
  const { engine } = io
  for (const session of Object.values(engine.clients)) {
    if (session.transport.name === 'polling') session.close(true)
  }
  const ended = new Promise((resolve) => {
    const look = () => engine.clientsCount === 0 && resolve()
    for (const session of Object.values(engine.clients)) session.once('close', () => setImmediate(look))
    look()
  })
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, Number(GRACE)))])
  // Those that are left come back elsewhere, and are recovered as well.
  await io.close()
  // Once everything is written.
  await redis?.quit()
  process.exit()
}
