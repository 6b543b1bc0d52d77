'use strict'

// `listen(server)` in a worker: makes the server a listening one whose connections come from the
// balancers of the parent process.

const net = require('node:net')
const tls = require('node:tls')
const debug = require('../debug')
const { invalidArgType, nameTaken, notAWorker, serverAlreadyListens } = require('../errors')
const messages = require('../messages')
const { listenOptions } = require('../options')
const { Balancer } = require('../primary/balancer')
const warnings = require('../warnings')
const { BalancerInfo } = require('./balancer-info')
const { IntakeHandle } = require('./intake-handle')
const { KeptConnections } = require('./kept-connections')
const { OpenConnections } = require('./open-connections')
const { SessionCookies } = require('./session-cookies')

// 'listening' waits for the first balancer, so that address() is known by then; but no longer than
// this, in milliseconds, as a manager may start its balancer only when all workers have said they
// listen.
const LISTENING_AFTER = 250

// When no balancer has been heard of for so long, there may be none, in milliseconds.
const NO_BALANCER_AFTER = 10_000

/** @type {Map<number, Listener>} the servers of this process that listen */
const listeners = new Map()

/** The names of those of which was said that they hide their sessions. */
const warned = new Set()

let lastNumber = 0

class Listener {
  #server
  #handle
  #announced = false
  #addressed = false
  #kept
  #cookies
  /** @type {Map<number, InstanceType<typeof BalancerInfo>>} by the number of the channel to it */
  #balancers = new Map()
  /** @type {NodeJS.Timeout} */
  #timer
  /** @type {NodeJS.Timeout} */
  #alone

  /**
   * @param {any} server a `net.Server`
   * @param {string} name
   */
  constructor(server, name) {
    this.name = name
    this.number = ++lastNumber
    this.#server = server
    this.#handle = new IntakeHandle(new OpenConnections(server), () => this.#onClose())
    this.#kept = new KeptConnections(server, this.#handle)
    this.#cookies = new SessionCookies(server)
    server._handle = this.#handle
    // Of an earlier balancer at a unix path.
    if (server._pipeName) server._pipeName = undefined
    this.#timer = setTimeout(() => this.#listening(null), LISTENING_AFTER)
    this.#alone = setTimeout(() => warnings.noBalancer(NO_BALANCER_AFTER, name), NO_BALANCER_AFTER).unref()
  }

  announce() {
    send(messages.listening(this.name, this.number))
  }

  /**
   * @param {messages.Channel} message
   * @param {any} pipeHandle its end of the channel
   */
  receiveFrom({ channel, pipe, address, identity }, pipeHandle) {
    debug('%j: takes connections of the balancer at %j', this.name, address)
    clearTimeout(this.#alone)
    // First, as a connection may wait in the channel already.
    this.#listening(address)
    try {
      const balancer = new BalancerInfo(identity)
      this.#handle.receiveFrom(pipeHandle, pipe, balancer, () => this.#balancers.delete(channel))
      this.#balancers.set(channel, balancer)
      if (balancer.identifies) this.#kept.watch()
      if (balancer.sessions?.cookie) this.#cookies.watch()
      if (balancer.sessions && hidesRequests(this.#server)) this.#warnOfHiddenSessions()
    } catch (error) {
      // No descriptors left, say. The primary gives up the channel and offers another.
      debug('%j: channel failed: %s', this.name, error)
    }
  }

  #warnOfHiddenSessions() {
    if (warned.has(this.name)) return
    warned.add(this.name)
    warnings.sessionsHidden(this.name)
  }

  /** @param {messages.Slots} message */
  serve({ channel, slots, own }) {
    const balancer = this.#balancers.get(channel)
    balancer?.serve(slots, own)
    if (balancer?.replaced) this.#kept.watch()
  }

  /** Takes no more connections, and ends those it has when they have been served. */
  letGo() {
    clearTimeout(this.#alone)
    this.#handle.stop()
    this.#kept.leave()
  }

  /**
   * The server listens, to Node as well, from here on.
   * @param {messages.Address} address of a balancer
   */
  #listening(address) {
    clearTimeout(this.#timer)
    this.#setAddress(address)
    if (this.#announced) return
    this.#announced = true
    const server = this.#server
    if (address === null || typeof address === 'string') {
      server._listen2(address, -1, -1)
    } else {
      server._listen2(address.address, address.port, address.family === 'IPv6' ? 6 : 4)
    }
  }

  /**
   * What the server's `address()` returns is the first balancer's.
   * @param {messages.Address} address
   */
  #setAddress(address) {
    if (address === null || this.#addressed) return
    this.#addressed = true
    if (typeof address === 'string') this.#server._pipeName = address
    else this.#handle.setAddress(address)
  }

  #onClose() {
    clearTimeout(this.#timer)
    clearTimeout(this.#alone)
    this.#kept.close()
    this.#cookies.close()
    listeners.delete(this.number)
    send(messages.closed(this.number))
    if (listeners.size === 0) ignorePrimary()
  }
}

/**
 * Whether a balancer cannot read the requests to a server: they are encrypted, or of HTTP/2.
 * @param {unknown} server
 */
function hidesRequests(server) {
  return server instanceof tls.Server || /** @type {any} */ (server).constructor.name === 'Http2Server'
}

/**
 * @param {unknown} server
 * @param {unknown} [options]
 */
function listen(server, options) {
  if (!(server instanceof net.Server)) throw invalidArgType('server', 'an instance of net.Server', server)
  if (server instanceof Balancer) {
    const remedy = 'A balancer listens in the primary process, by its own method: balancer.listen(port)'
    throw invalidArgType('server', 'a server that serves clients itself', server, remedy)
  }
  const { name } = listenOptions(options)
  if (!process.send || !process.connected) throw notAWorker()
  if (server.listening) throw serverAlreadyListens()
  for (const listener of listeners.values()) {
    if (listener.name === name) throw nameTaken(name)
  }
  if (listeners.size === 0) heedPrimary()
  const listener = new Listener(server, name)
  listeners.set(listener.number, listener)
  listener.announce()
  return true
}

function heedPrimary() {
  process.on('message', onMessage)
  process.on('disconnect', onDisconnect)
}

function ignorePrimary() {
  process.off('message', onMessage)
  process.off('disconnect', onDisconnect)
}

/**
 * @param {unknown} data
 * @param {any} [handle]
 */
function onMessage(data, handle) {
  const message = messages.parse(data)
  if (message?.cmd === 'sticky-listen:query') {
    for (const listener of listeners.values()) listener.announce()
  } else if (message?.cmd === 'sticky-listen:channel' && handle) {
    listeners.get(message.listener)?.receiveFrom(message, handle)
    // Its descriptor was copied. Where nobody wanted it, the primary gives up waiting for a hello.
    handle.close()
  } else if (message?.cmd === 'sticky-listen:slots') {
    listeners.get(message.listener)?.serve(message)
  }
}

/** The manager has let go of this worker: it finishes what it has. */
function onDisconnect() {
  debug('disconnected from the primary')
  for (const listener of listeners.values()) listener.letGo()
}

/**
 * A primary that is gone needs no telling.
 * @param {object} message
 */
function send(message) {
  if (process.connected) process.send?.(message, undefined, undefined, () => {})
}

module.exports = { listen }
