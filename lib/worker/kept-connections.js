'use strict'

// Ends HTTP connections that are kept open though their requests belong elsewhere.
//
// A connection is routed once, by the client or the session of its first request. If it is kept open, later requests come
// to the same worker, whoever's they are: those of other clients when a proxy pools its connections, and
// those of clients whose slot another worker has taken over. Such a connection ends with its next response.
//
// Where new clients may come to any slot, a connection whose request shows no session ends too: a later one may well show a
// session of another slot, which began on another connection of the same browser. So does one whose request shows it in the
// query alone: a browser may have several sessions, each of a slot of its own.

const http = require('node:http')
const debug = require('../debug')
const { balancerOf } = require('./adopted')
const { watchRequests } = require('./requests')
const { changeHead, withLine } = require('./response-head')

// A proxy that has once mixed clients of different slots on a connection does so on all that it is let
// keep. For so long after the last such request, in milliseconds, it is let keep none.
const POOLED = 60_000

// So many proxies are remembered: clients that come without one must not fill the memory.
const MAX_PROXIES = 1000

const CLIENT = Symbol('sticky-listen client')

// The lines of a head that say what becomes of its connection.
const HOP = /^(?:connection:(.*)|keep-alive:.*)\r\n/gim
const CLOSE = 'Connection: close'

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
      if (this.#leaving || !this.#mayKeep(request)) endConnection(response)
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
    return balancer.mayKeep(request)
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

/**
 * The connection of a response ends with it, and the response says so, whatever the application says in its headers: it may
 * have copied them from another response.
 * @param {any} response
 */
function endConnection(response) {
  response.shouldKeepAlive = false
  changeHead(response, (head, of) => {
    // What follows an upgrade is no more of this protocol.
    if (head.startsWith('HTTP/1.1 1')) return head
    // Node takes a header of the application's to keep the connection.
    of._last = true
    return sayingClose(head)
  })
}

/**
 * The head, but that the connection ends. Other options of it stay, as they say which headers are not to be passed on.
 * @param {string} head
 */
function sayingClose(head) {
  const lines = head.match(HOP)
  if (lines?.length === 1 && lines[0] === `${CLOSE}\r\n`) return head
  /** @type {string[]} */
  const options = []
  const rest = head.replace(HOP, (_line, said) => {
    const named = `${said ?? ''}`.split(',').map((option) => option.trim())
    options.push(...named.filter((option) => option && !/^(?:close|keep-alive)$/i.test(option)))
    return ''
  })
  return withLine(rest, [CLOSE, ...options].join(', '))
}

module.exports = { KeptConnections }
