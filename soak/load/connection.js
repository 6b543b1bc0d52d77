'use strict'

// A client's connection: what it says, when, and what it gets for it.

const net = require('node:net')
const { now } = require('../clock')
const { Answers } = require('./answer')

// A client that has no answer after so many milliseconds hangs. Nobody's patience is that long, and no fault either.
const HANGS_AFTER = 60_000

/**
 * What became of a request.
 * @typedef {{ status: number, body: string, cookie?: string } | { error: string }} Outcome
 */

class Connection {
  #answers = new Answers()
  #ended = false
  /** @type {string | undefined} */
  #error
  #wake = () => {}
  /** The client's end, as a worker sees it where nobody speaks for it. */
  localPort = 0

  /**
   * @param {number} port
   * @param {string} localAddress
   */
  constructor(port, localAddress) {
    this.socket = net.connect({ host: '127.0.0.1', port, localAddress, allowHalfOpen: true })
    this.socket.on('data', (/** @type {any} */ chunk) => {
      this.#answers.push(chunk)
      this.#wake()
    })
    this.socket.on('end', () => {
      this.#ended = true
      this.#wake()
      // What is still on its way to the other side is not lost by that.
      this.socket.end()
    })
    this.socket.on('error', (/** @type {NodeJS.ErrnoException} */ error) => {
      this.#error ??= error.code ?? error.message
      this.#wake()
    })
    this.socket.on('close', () => {
      this.#ended = true
      this.#wake()
    })
  }

  /** Whether it is established; if not, why is in `failure`. */
  async connected() {
    while (this.socket.connecting && this.#error === undefined) {
      await new Promise((resolve) => {
        this.socket.once('connect', resolve)
        this.#wake = () => resolve(undefined)
      })
    }
    this.localPort = this.socket.localPort ?? 0
    return this.#error === undefined
  }

  get failure() {
    return this.#error
  }

  /** Whether the other side said nothing since the last answer, and has not ended it. */
  get isIdle() {
    return !this.#ended && this.#error === undefined && this.#answers.isEmpty
  }

  /** @param {string | Buffer} bytes */
  say(bytes) {
    if (this.socket.writable) this.socket.write(bytes)
  }

  /**
   * The next answer.
   * @returns {Promise<Outcome & { closes?: boolean }>}
   */
  async answer() {
    const by = now() + HANGS_AFTER
    for (;;) {
      const over = this.#ended || this.#error !== undefined
      const answer = this.#answers.take(over)
      if (answer) {
        const { status, body, headers } = answer
        const cookie = headers.get('set-cookie')
        return { status, body, cookie, closes: over || headers.get('connection') === 'close' }
      }
      const cut = this.#answers.isEmpty ? '' : ' within the answer'
      if (over) return { error: `${this.#error ?? 'closed'}${cut}` }
      const left = by - now()
      if (left <= 0) return { error: `hangs${cut}` }
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#wake = () => {
          clearTimeout(timer)
          resolve(undefined)
        }
      })
    }
  }

  end() {
    this.socket.destroy()
  }
}

module.exports = { Connection }
