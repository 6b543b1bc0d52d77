'use strict'

// Tells the proxy in front of a host how its balancer is: over HTTP, as any proxy or orchestrator asks, and in the words
// of HAProxy's agent-check. Copy this file; docs/fleet.md says how to use it.

const { randomUUID } = require('node:crypto')
const { EventEmitter, once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')

// What the agent says: that it lives, and by a weight whether it wants new clients. Not `ready` and `drain`, which are words of
// people: `ready` ends what they have set by `set server … state`. Nothing when it is down. That is for /health, of which HAProxy
// counts the answers: for a moment nobody serves either when another version takes over.
const WORDS = { up: 'up 100%', drain: 'up 0%' }

// Before the ports are tried again, which another version of the program has, in milliseconds.
const RETRY = 50

/** Emits 'told' with a state whenever the agent has told it. */
class Health extends EventEmitter {
  #balancer
  #file
  #id = randomUUID()
  #draining = false
  #closed = false
  #servers

  /**
   * @param {import('../..').Balancer} balancer
   * @param {string} [file] by which a version that leaves learns that the next one wants the ports. In a folder that nobody
   *   else may write in
   */
  constructor(balancer, file) {
    super()
    this.#balancer = balancer
    this.#file = file
    const web = http.createServer((request, response) => {
      if (this.#isReplaced()) return request.destroy()
      if (request.url !== '/health') return response.writeHead(404).end()
      // Who drains is well: its sessions go on.
      response.writeHead(this.state === 'down' ? 503 : 200, { connection: 'close' }).end(`${this.state}\n`)
    })
    const agent = net.createServer((socket) => {
      socket.on('error', () => {})
      const { state } = this
      // An agent that does not answer changes nothing.
      if (this.#isReplaced() || state === 'down') return socket.destroy()
      socket.end(`${WORDS[state]}\n`, () => this.emit('told', state))
    })
    this.#servers = [web, agent]
    // A process that has nothing else to do ends.
    for (const server of this.#servers) server.unref().on('connection', (socket) => socket.unref())
    // At once: 'close' of the balancer comes when everybody has left it whose client is not known yet.
    balancer.once('superseded', () => this.close())
  }

  /** @returns {'up' | 'drain' | 'down'} */
  get state() {
    if (this.#isLeaving) return 'drain'
    return this.#balancer.stats().slots.some(({ pid }) => pid) ? 'up' : 'down'
  }

  /** Also when the balancer is closed: until the last session has ended, the host is to be left in peace. */
  get #isLeaving() {
    return this.#draining || !this.#balancer.listening
  }

  /**
   * Answers from when all slots have workers. Not everybody: only the proxy should reach these ports.
   * @param {number} port over HTTP: GET /health
   * @param {number} agentPort in the words of HAProxy
   * @param {string} host
   */
  async listen(port, agentPort, host) {
    while (!this.#isServed) await once(this.#balancer, 'slot')
    this.#claim()
    const ports = [port, agentPort]
    await Promise.all(this.#servers.map((server, n) => this.#listen(server, ports[n], host)))
  }

  get #isServed() {
    const { slots } = this.#balancer.stats()
    return slots.length > 0 && slots.every(({ pid }) => pid)
  }

  /**
   * The version before this one has the ports until it is superseded, or leaves and reads in the file that this one serves.
   * @param {net.Server} server
   * @param {number} port
   * @param {string} host
   */
  async #listen(server, port, host) {
    while (!this.#closed) {
      try {
        await once(server.listen(port, host), 'listening')
        return
      } catch (error) {
        if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EADDRINUSE') throw error
        await new Promise((resolve) => setTimeout(resolve, RETRY).unref())
      }
    }
  }

  #claim() {
    if (this.#file) fs.writeFileSync(this.#file, this.#id)
  }

  /** Whether the ports are another version's, to whom they are then left. */
  #isReplaced() {
    if (this.#isLeaving && this.#file && fs.existsSync(this.#file)) {
      if (fs.readFileSync(this.#file, 'utf8') !== this.#id) this.close()
    }
    return this.#closed
  }

  /** From now on the proxy is told to send no new clients. */
  drain() {
    this.#draining = true
    // Who claimed the ports before, and did not supersede this one, has failed.
    this.#claim()
  }

  close() {
    this.#closed = true
    for (const server of this.#servers) server.close()
  }
}

module.exports = { Health }
