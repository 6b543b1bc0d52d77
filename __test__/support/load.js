'use strict'

// Busy clients: each sends one request after another, every one on a connection of its own, and keeps
// an account of what became of them.

const http = require('node:http')
const { loopback } = require('./client')

// No answer within this many milliseconds is a client that hangs.
const HANGS_AFTER = 30_000

/**
 * @typedef {object} Failure
 * @property {string} client its address and port, as the worker sees it
 * @property {string} why an error code, a wrong status, or 'hangs'
 */

class Load {
  #running = true
  #clients
  answered = 0
  /** @type {Failure[]} */
  failures = []

  /**
   * @param {number} port
   * @param {number} clients
   * @param {(client: number) => object} [options] of each request, with `body` and `expect` if any
   */
  constructor(port, clients, options = () => ({})) {
    this.port = port
    this.#clients = Array.from({ length: clients }, async (_, n) => {
      while (this.#running) await this.#request(loopback(n), options(n))
    })
  }

  /** Lets every request that has begun come to its end. */
  async stop() {
    this.#running = false
    await Promise.all(this.#clients)
  }

  #request(localAddress, { body, expect, ...options }) {
    return new Promise((resolve) => {
      let localPort = 0
      const sent = http.request({ host: '127.0.0.1', port: this.port, agent: false, localAddress, ...options })
      const fail = (why) => {
        this.failures.push({ client: `${localAddress}:${localPort}`, why })
        sent.destroy()
        resolve()
      }
      const timer = setTimeout(fail, HANGS_AFTER, 'hangs')
      sent.on('socket', (socket) => {
        socket.on('connect', () => {
          localPort = socket.localPort
        })
      })
      sent.on('close', () => clearTimeout(timer))
      sent.on('error', (error) => fail(error.code))
      sent.on('response', (response) => {
        const chunks = []
        response.on('data', (chunk) => chunks.push(chunk))
        response.on('error', (error) => fail(error.code))
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString()
          if (response.statusCode !== 200) return fail(`status ${response.statusCode}`)
          if (expect !== undefined && text !== expect) return fail(`${text.length} bytes of ${expect.length}`)
          this.answered++
          resolve()
        })
      })
      sent.end(body)
    })
  }
}

module.exports = { Load }
