'use strict'

// Tells the proxy in front of a host how its balancer is: over HTTP, as any proxy or orchestrator asks, and in the words
// of HAProxy's agent-check. Copy this file; docs/fleet.md says how to use it.

const { EventEmitter, once } = require('node:events')
const http = require('node:http')
const net = require('node:net')

// What HAProxy is told. It keeps a state of each kind until another is named: so each answer names both.
const WORDS = { up: 'up ready', drain: 'up drain', down: 'down' }

// The version of the program before this one has the ports until it was taken over. In milliseconds.
const RETRY = 50

/** Emits 'told' with a state whenever a proxy has asked for it. */
class Health extends EventEmitter {
  #balancer
  #draining = false
  #closed = false
  #servers

  /** @param {import('../..').Balancer} balancer */
  constructor(balancer) {
    super()
    this.#balancer = balancer
    const web = http.createServer((request, response) => {
      if (request.url !== '/health') return response.writeHead(404).end()
      // Who drains is well: its sessions go on.
      response.writeHead(this.state === 'down' ? 503 : 200, { connection: 'close' }).end(`${this.state}\n`)
    })
    const agent = net.createServer((socket) => {
      socket.on('error', () => {})
      const { state } = this
      socket.end(`${WORDS[state]}\n`, () => this.emit('told', state))
    })
    this.#servers = [web, agent]
  }

  /** @returns {'up' | 'drain' | 'down'} */
  get state() {
    // Also when the balancer is closed: until the last session has ended, the host is to be left in peace.
    if (this.#draining) return 'drain'
    return this.#balancer.listening && this.#balancer.stats().slots.some(({ pid }) => pid) ? 'up' : 'down'
  }

  /**
   * Not for everybody: only the proxy should reach these ports.
   * @param {number} port over HTTP: GET /health
   * @param {number} agentPort in the words of HAProxy
   * @param {string} host
   */
  async listen(port, agentPort, host) {
    const ports = [port, agentPort]
    await Promise.all(this.#servers.map((server, n) => this.#listen(server, ports[n], host)))
  }

  /**
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
        await new Promise((resolve) => setTimeout(resolve, RETRY))
      }
    }
  }

  /** From now on the proxy is told to send no new clients. */
  drain() {
    this.#draining = true
  }

  close() {
    this.#closed = true
    for (const server of this.#servers) server.close()
  }
}

module.exports = { Health }
