'use strict'

// What a worker knows of one balancer whose connections it takes.

const debug = require('../debug')
const native = require('../../native')

/** @typedef {import('../messages').Identity} Identity */

class BalancerInfo {
  /** How many slots the balancer has; unknown at first. */
  #slots = 0
  /** @type {number[]} those that this worker serves */
  #own = []
  #header = ''
  #maxHeaderSize = 0
  /** @type {native.Identifier | undefined} */
  #identifier

  /** @param {Identity | null} identity how the balancer tells clients apart, if by their requests */
  constructor(identity) {
    /** Whether this worker served slots, and serves none any more. */
    this.replaced = false
    /** Changes with the slots. */
    this.epoch = 0
    if (!identity) return
    const { key, header, maxHeaderSize, ...rest } = identity
    this.#header = header
    this.#maxHeaderSize = maxHeaderSize
    this.#identifier = new native.Identifier({ key: Buffer.from(key, 'base64'), header, ...rest })
  }

  /** Whether connections are of the client that their requests name. */
  get identifies() {
    return this.#identifier !== undefined
  }

  /** Among how many slots addresses tell clients apart: 1 where their requests do. */
  get slotsByAddress() {
    return this.identifies ? 1 : this.#slots
  }

  /**
   * @param {number} slots
   * @param {number[]} own
   */
  serve(slots, own) {
    debug('serving %j of %d slots', own, slots)
    this.replaced = own.length === 0 && (this.replaced || this.#own.length > 0)
    this.#slots = slots
    this.#own = own
    this.epoch++
  }

  /**
   * The lines of the header that names a request's client, as far as the balancer would look for them.
   * @param {import('node:http').IncomingMessage} request
   */
  lines({ method = '', url = '', rawHeaders }) {
    const lines = []
    // The first line, and the empty one, without their words.
    let length = method.length + url.length + '  HTTP/1.1\r\n\r\n'.length
    for (let n = 0; n < rawHeaders.length; n += 2) {
      const name = rawHeaders[n]
      const value = rawHeaders[n + 1]
      length += name.length + value.length + ': \r\n'.length
      if (name.length === this.#header.length && name.toLowerCase() === this.#header) lines.push(value)
    }
    return length > this.#maxHeaderSize ? [] : lines
  }

  /**
   * Whether the client of a request has a slot of this worker, as far as that is known.
   * @param {string | undefined} peer
   * @param {string[]} lines
   */
  serves(peer, lines) {
    if (!this.#identifier || this.#own.length === 0) return true
    // As Node has read them.
    const bytes = lines.map((line) => Buffer.from(line, 'latin1'))
    return this.#own.includes(this.#identifier.slot(peer, bytes, this.#slots))
  }
}

module.exports = { BalancerInfo }
