'use strict'

// A fleet of examples/fleet for a test, and clients who chat through it and keep an account of what they notice.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const { io } = require('socket.io-client')
const { CONFIG, Fleet, askProxy, find, freePort, missing, proxyStates } = require('../../examples/fleet/fleet')
const { loopback, request, until } = require('./client')
const { directory } = require('./places')

/** Why these tests cannot run here, if they cannot. In CI, which installs all they need, that is an error. */
function missingFleet() {
  const obstacle = missing()
  if (!obstacle) return false
  if (process.env.CI) throw new Error(obstacle)
  return obstacle
}

/**
 * @param {import('node:test').TestContext} t
 * @param {ConstructorParameters<typeof Fleet>[0]} [options]
 */
async function startFleet(t, options) {
  const fleet = new Fleet(options)
  // What a test that fails shows.
  fleet.on('log', (line) => t.diagnostic(line))
  t.after(() => fleet.stop())
  await fleet.start()
  return fleet
}

/**
 * What a client noticed.
 * @typedef {object} Loss
 * @property {string} reason
 * @property {number} at when
 * @property {number} [back] when it was connected again
 * @property {boolean} [recovered] whether it is then the same session, with all that it missed
 */

/** A client of socket.io, from an address of its own. */
class Member {
  /** @type {Loss[]} */
  losses = []
  /** @type {Map<string, number>} how long each text took, in milliseconds */
  heard = new Map()
  /** @type {string | undefined} */
  host
  /** @type {number | undefined} */
  pid

  /**
   * @param {number} port
   * @param {number} n
   * @param {'polling' | 'websocket'} transport in the end; all begin by polling
   */
  constructor(port, n, transport) {
    this.n = n
    this.transport = transport
    this.agent = new http.Agent({ keepAlive: false, localAddress: loopback(n) })
    this.socket = io(`http://127.0.0.1:${port}`, {
      transports: transport === 'polling' ? ['polling'] : ['polling', 'websocket'],
      agent: this.agent,
      forceNew: true,
    })
    this.socket.on('connect', () => {
      const loss = this.losses.at(-1)
      if (loss && !loss.back) Object.assign(loss, { back: Date.now(), recovered: this.socket.recovered })
    })
    this.socket.on('disconnect', (reason) => {
      if (this.over) return
      this.losses.push({ reason, at: Date.now() })
      this.host = undefined
    })
    this.socket.on('welcome', ({ host, pid }) => Object.assign(this, { host, pid }))
    this.socket.on('said', ({ text }) => this.heard.set(text, Date.now() - Number(text.split(' ')[0])))
  }

  /** Whether it is there, over the transport that it wants. */
  get settled() {
    return this.socket.connected && this.host && this.socket.io.engine.transport.name === this.transport
  }

  /** Says something to the room; resolves once a worker has it. */
  say(what) {
    const text = `${Date.now()} ${what}`
    return this.socket.emitWithAck('say', text).then(() => text)
  }

  end() {
    this.over = true
    this.socket.disconnect()
    this.agent.destroy()
  }
}

class Room {
  #talking = false
  #talk

  /**
   * @param {import('node:test').TestContext} t
   * @param {Fleet} fleet
   * @param {number} size how many clients; every second one polls
   */
  constructor(t, fleet, size) {
    this.t = t
    this.fleet = fleet
    this.members = Array.from(
      { length: size },
      (_, n) => new Member(fleet.port, n, n % 2 === 0 ? 'polling' : 'websocket'),
    )
    t.after(() => this.end())
  }

  end() {
    clearInterval(this.#talk)
    for (const member of this.members) member.end()
  }

  /** The members of a host or worker, or of a transport. */
  of(what) {
    return this.members.filter((member) => Object.entries(what).every(([key, value]) => member[key] === value))
  }

  /** Waits until all are there. */
  async settled() {
    await until(() => this.members.every((member) => member.settled))
  }

  /** From now on somebody says something all the time: five times a second. */
  talk() {
    let turn = 0
    this.#talking = true
    this.#talk = setInterval(() => {
      if (this.#talking) this.members[(turn++ * 7) % this.members.length].say(`small talk ${turn}`).catch(() => {})
    }, 200)
  }

  /** Somebody of each worker says something, and everybody hears it. */
  async converses() {
    const speakers = new Map(this.members.map((member) => [member.pid, member]))
    const texts = await Promise.all([...speakers.values()].map((member) => member.say('does everybody hear me?')))
    await until(() => texts.every((text) => this.members.every(({ heard }) => heard.has(text))))
  }

  /**
   * Lets something happen, and waits until the room is as before. Tells who noticed, and for how long.
   * @param {string} name
   * @param {Member[]} affected who notices for sure
   * @param {() => Promise<void>} act
   * @returns {Promise<Map<Member, Loss[]>>} who noticed
   */
  async incident(name, affected, act) {
    await this.settled()
    await this.#idles()
    const before = new Map(this.members.map((member) => [member, member.losses.length]))
    const since = Date.now()
    const lossesOf = (member) => member.losses.slice(before.get(member))
    await act()
    await until(() => affected.every((member) => lossesOf(member).length > 0))
    await this.settled()
    // What is said before that has then been heard, or never will be.
    this.#talking = false
    await this.converses()
    this.#talking = true
    const noticed = new Map(this.members.map((member) => [member, lossesOf(member)]))
    for (const [member, losses] of noticed) if (losses.length === 0) noticed.delete(member)
    this.#tell(name, noticed, since)
    return noticed
  }

  /**
   * Waits until all have heard something and poll for more, as clients do most of the time. A poll that is just on its way
   * when a worker is killed waits for the successor. No event tells of it.
   */
  async #idles() {
    const heard = this.members.map((member) => member.heard.size)
    await until(() => this.members.every((member, n) => member.heard.size > heard[n]))
    await new Promise((resolve) => setTimeout(resolve, 100))
  }

  #tell(name, noticed, since) {
    this.t.diagnostic(`${name}:`)
    for (const transport of ['polling', 'websocket']) {
      const all = this.of({ transport })
      const losses = [...noticed].filter(([member]) => member.transport === transport).flatMap(([, losses]) => losses)
      const away = losses.map(({ at, back }) => back - at).sort((a, b) => a - b)
      const who = all.filter((member) => noticed.has(member)).length
      const times = away.length
        ? `, away for ${seconds(away[away.length >> 1])} (median), ${seconds(away.at(-1))} at most; ` +
          `the first noticed after ${seconds(Math.min(...losses.map(({ at }) => at)) - since)}, ` +
          `the last after ${seconds(Math.max(...losses.map(({ at }) => at)) - since)}; ` +
          `${losses.filter(({ recovered }) => recovered).length} of ${losses.length} were recovered`
        : ''
      this.t.diagnostic(`  ${who} of ${all.length} over ${transport} noticed${times}`)
    }
    const said = (text) => Number(text.split(' ')[0]) >= since
    const undisturbed = this.members.filter((member) => !noticed.has(member))
    const delays = undisturbed.flatMap(({ heard }) =>
      [...heard].filter(([text]) => said(text)).map(([, delay]) => delay),
    )
    if (delays.length) this.t.diagnostic(`  to the others a message took ${seconds(Math.max(...delays))} at most`)
    const texts = new Set(this.members.flatMap(({ heard }) => [...heard.keys()].filter(said)))
    const missed = [...noticed.keys()].map(({ heard }) => [...texts].filter((text) => !heard.has(text)).length)
    if (missed.some(Boolean)) {
      const sum = missed.reduce((a, b) => a + b)
      this.t.diagnostic(
        `  of ${texts.size} messages, those who noticed missed ${(sum / missed.length).toFixed(1)} each`,
      )
    }
  }
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`

/**
 * HAProxy as the fleet has it, in front of hosts that are only what they answer.
 * @param {import('node:test').TestContext} t
 * @param {Record<'h1' | 'h2' | 'h3', number>} statuses
 * @param {[health: number, agent: number]} [ports] where one asks how they are. By default all live, and no agent says more
 * @returns its port, which hosts have been asked, and what a fleet has to ask it
 */
async function proxyBefore(t, statuses, [healthPort, agentPort] = []) {
  const asked = []
  const ports = {}
  for (const [host, status] of Object.entries(statuses)) {
    const server = net.createServer((socket) => {
      socket.on('error', () => {})
      // With the PROXY header it is all in one piece.
      socket.once('data', (data) => {
        if (!data.includes('GET /health')) asked.push(host)
        socket.end(`HTTP/1.1 ${status} Host\r\nContent-Length: ${host.length}\r\n\r\n${host}`)
      })
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    t.after(() => server.close())
    ports[host.toUpperCase()] = `127.0.0.1:${server.address().port}`
  }
  if (!healthPort) {
    const health = http.createServer((_request, response) => response.end())
    await once(health.listen(0, '127.0.0.1'), 'listening')
    t.after(() => health.close())
    healthPort = health.address().port
  }
  const folder = directory(t)
  const port = await freePort('127.0.0.1')
  const child = spawn(find('haproxy'), ['-db', '-f', CONFIG], {
    env: {
      ...process.env,
      ...ports,
      FOLDER: folder,
      BIND: `127.0.0.1:${port}`,
      HEALTH_PORT: `${healthPort}`,
      AGENT_PORT: `${agentPort ?? (await freePort('127.0.0.1'))}`,
    },
    stdio: 'ignore',
  })
  const exited = once(child, 'exit')
  t.after(async () => {
    child.kill('SIGKILL')
    await exited
  })
  await until(() => request(port).then(Boolean, () => child.exitCode !== null))
  asked.length = 0
  return {
    port,
    asked,
    askProxy: (/** @type {string} */ command) => askProxy(folder, command),
    proxyStates: () => proxyStates(folder),
  }
}

/**
 * A connection to a host's balancer itself, on which nothing is said.
 * @param {Fleet} fleet
 * @param {import('../../examples/fleet/fleet').Host} host
 */
async function connectTo(fleet, { name, address }) {
  const [, header, ...rows] = (await fleet.askProxy('show servers state app')).trim().split('\n')
  const [, ...fields] = header.split(' ')
  const row = rows.map((line) => line.split(' ')).find((row) => row[fields.indexOf('srv_name')] === name)
  const socket = net.connect(Number(row[fields.indexOf('srv_port')]), address)
  await once(socket, 'connect')
  return socket.on('error', () => {})
}

/**
 * Waits until HAProxy sees all hosts like this.
 * @param {{ proxyStates: Fleet['proxyStates'] }} fleet
 * @param {Record<string, string>} states
 */
async function proxySees(fleet, states) {
  await until(async () => {
    const seen = await fleet.proxyStates()
    return Object.entries(states).every(([host, state]) => seen[host]?.startsWith(state))
  })
}

/** A worker with clients of both kinds, and who they are. */
function someWorker(room) {
  const pids = [...new Set(room.members.map(({ pid }) => pid))]
  const pid = pids.find(
    (pid) => room.of({ pid, transport: 'polling' }).length && room.of({ pid, transport: 'websocket' }).length,
  )
  assert.ok(pid, 'no worker has clients of both kinds')
  return pid
}

module.exports = { Room, connectTo, missingFleet, proxyBefore, proxySees, someWorker, startFleet }
