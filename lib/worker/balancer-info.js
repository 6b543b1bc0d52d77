'use strict'

// What a worker knows of one balancer whose connections it takes.

const { nativeSessions } = require('../affinity')
const debug = require('../debug')
const native = require('../../native')

/**
 * @typedef {import('../messages').Identity} Identity
 * @typedef {import('node:http').IncomingMessage} IncomingMessage
 */

/**
 * Whose a request is: the slot of the session that it shows, or -1; and the lines of the header that names its client. Neither
 * if its head is longer than the balancer looks.
 * @typedef {{ session: number, lines: string[], unread?: boolean }} Client
 */

/** @type {Client} */
const UNREAD = { session: -1, lines: [], unread: true }

const CLIENT = Symbol('sticky-listen client')

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
    /** How requests show their session, if they do. */
    this.sessions = identity?.sessions
    if (!identity) return
    const { key, header, maxHeaderSize, sessions, ...rest } = identity
    this.#header = header ?? ''
    this.#maxHeaderSize = maxHeaderSize
    this.#identifier = new native.Identifier({
      ...rest,
      key: Buffer.from(key, 'base64'),
      header,
      sessions: sessions && nativeSessions(sessions, Buffer.from(sessions.key, 'base64')),
    })
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
   * The token of a slot, where there are sessions.
   * @param {number} slot
   */
  token(slot) {
    return (this.sessions && this.#identifier?.token(slot)) ?? undefined
  }

  /**
   * Whether all that a client sends on a connection is for the slot of this request's session, so that the connection can be
   * kept: a browser sends its cookie with everything. A query is about one session, of which a browser may have several, and
   * it uses its connections for any of them.
   * @param {IncomingMessage} request
   * @param {number} session that it shows
   */
  #goesByCookie({ url = '', headers }, session) {
    if (!this.sessions?.cookie) return false
    if (!this.sessions.query || !url.includes('?')) return true
    return this.#sessionOf('', headers.cookie) === session
  }

  /**
   * Whether later requests on a connection are for this worker as well, if this one is.
   * @param {IncomingMessage} request
   */
  mayKeep(request) {
    if (!this.sendsNewClientsAnywhere) return true
    const { session, unread } = this.client(request)
    return unread === true || (session >= 0 && this.#goesByCookie(request, session))
  }

  /** Whether clients that show no session may come to any slot. */
  get sendsNewClientsAnywhere() {
    return this.sessions?.fallback === 'room'
  }

  /**
   * Whose a request is, as far as the balancer would look.
   * @param {IncomingMessage & { [CLIENT]?: Client }} request
   * @returns {Client}
   */
  client(request) {
    request[CLIENT] ??= this.#clientOf(request)
    return request[CLIENT]
  }

  /**
   * @param {IncomingMessage} request
   * @returns {Client}
   */
  #clientOf(request) {
    const { method = '', url = '', rawHeaders } = request
    const lines = []
    // The first line, and the empty one, without their words.
    let length = method.length + url.length + '  HTTP/1.1\r\n\r\n'.length
    for (let n = 0; n < rawHeaders.length; n += 2) {
      const name = rawHeaders[n]
      const value = rawHeaders[n + 1]
      length += name.length + value.length + ': \r\n'.length
      if (name.length === this.#header.length && name.toLowerCase() === this.#header) lines.push(value)
    }
    if (length > this.#maxHeaderSize) return UNREAD
    return { session: this.sessions ? this.#sessionOf(url, request.headers.cookie) : -1, lines }
  }

  /**
   * @param {string} url
   * @param {string | undefined} cookies
   */
  #sessionOf(url, cookies) {
    // Before the slots are known, all that there can be.
    const slots = this.#slots || 2 ** 32 - 1
    return this.#identifier?.session(url, cookies, slots) ?? -1
  }

  /**
   * Whether a client's requests are for this worker, as far as that is known.
   * @param {string | undefined} peer
   * @param {Client} client
   */
  serves(peer, { session, lines, unread }) {
    // What the balancer does not read goes by the peer's address.
    if (!this.#identifier || this.#own.length === 0 || (unread && this.sessions)) return true
    if (session >= 0) return this.#own.includes(session)
    if (this.sendsNewClientsAnywhere) return true
    // As Node has read them.
    const bytes = lines.map((line) => Buffer.from(line, 'latin1'))
    return this.#own.includes(this.#identifier.slot(peer, bytes, this.#slots))
  }
}

module.exports = { BalancerInfo }
