'use strict'

// Ends HTTP connections that are kept open though their requests belong elsewhere.
//
// A connection is routed once, by the client or the session of its first request. If it is kept open, later requests come
// to the same worker, whoever's they are: those of other clients when a proxy pools its connections, and
// those of clients whose slot another worker has taken over. Such a connection ends with its next response.
//
// Where new clients may come to any slot, a connection whose request shows no session ends too: a later one may well show a
// session of another slot, which began on another connection of the same browser.

const http = require('node:http')
const debug = require('../debug')
const { balancerOf } = require('./adopted')
const { watchRequests } = require('./requests')

// A proxy that has once mixed clients of different slots on a connection does so on all that it is let
// keep. For so long after the last such request, in milliseconds, it is let keep none.
const POOLED = 60_000

// So many proxies are remembered: clients that come without one must not fill the memory.
const MAX_PROXIES = 1000

const CLIENT = Symbol('sticky-listen client')

class KeptConnections {
  #server
  #handle
  /** @type {(() => void) | undefined} */
  #unwatch
  #leaving = false
  /** @type {Map<string, number>} until when a proxy is let keep none, by its address */
  #pooledUntil = new Map()

  /**
   * @param {any} server a `net.Server`
   * @param {{ firstBalancer?: InstanceType<typeof import('./balancer-info').BalancerInfo> }} handle behind it
   */
  constructor(server, handle) {
    this.#server = server
    this.#handle = handle
  }

  /** From now on requests are looked at. */
  watch() {
    this.#unwatch ??= watchRequests(this.#server, (request, response) => {
      if (this.#leaving || !this.#mayKeep(request)) response.shouldKeepAlive = false
    })
  }

  /** All connections end with their next response. */
  leave() {
    this.#leaving = true
    this.watch()
  }

  /** Looks at no more requests, unless all connections are to end. */
  close() {
    if (this.#leaving) return
    this.#unwatch?.()
    this.#unwatch = undefined
  }

  /** @param {http.IncomingMessage} request */
  #mayKeep(request) {
    const balancer = balancerOf(request.socket) ?? this.#handle.firstBalancer
    if (!balancer) return true
    if (balancer.replaced) return false
    // The balancer sees no request within TLS, and one connection of HTTP/2 is many clients' by design.
    if (!balancer.identifies || !(this.#server instanceof http.Server)) return true
    const now = performance.now()
    if (this.#isMisrouted(request, balancer, now)) return false
    if (now < (this.#pooledUntil.get(request.socket.remoteAddress ?? '') ?? 0)) return false
    const { session, unread } = balancer.client(request)
    return session >= 0 || unread === true || !balancer.sendsNewClientsAnywhere
  }

  /**
   * @param {http.IncomingMessage} request
   * @param {InstanceType<typeof import('./balancer-info').BalancerInfo>} balancer
   * @param {number} now
   */
  #isMisrouted(request, balancer, now) {
    const socket = /** @type {any} */ (request.socket)
    const whose = balancer.client(request)
    const client = `${whose.session} ${whose.lines}`
    const before = socket[CLIENT]
    if (before?.client === client && before.epoch === balancer.epoch) return before.misrouted
    const misrouted = !balancer.serves(socket.remoteAddress, whose)
    socket[CLIENT] = { client, epoch: balancer.epoch, misrouted }
    if (misrouted && before && before.client !== client) this.#notePool(socket.remoteAddress ?? '', now)
    return misrouted
  }

  /**
   * @param {string} proxy
   * @param {number} now
   */
  #notePool(proxy, now) {
    if (now >= (this.#pooledUntil.get(proxy) ?? 0))
      debug('%s sends requests of different clients on one connection', proxy)
    // The one that was seen last is the last to be forgotten.
    this.#pooledUntil.delete(proxy)
    this.#pooledUntil.set(proxy, now + POOLED)
    const [oldest] = this.#pooledUntil.keys()
    if (this.#pooledUntil.size > MAX_PROXIES) this.#pooledUntil.delete(oldest)
  }
}

module.exports = { KeptConnections }
