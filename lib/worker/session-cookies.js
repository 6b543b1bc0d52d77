'use strict'

// Gives a client that shows no session the cookie with the token of the slot that it came by, with the response to its
// request.

const http = require('node:http')
const https = require('node:https')
const { balancerOf, tokenOf } = require('./adopted')
const { watchRequests } = require('./requests')
const { cookieLine, setCookie } = require('./set-cookie')
const { setCookieOnUpgrade } = require('./upgrade-cookie')

/** @typedef {http.IncomingMessage} IncomingMessage */

class SessionCookies {
  #server
  /** @type {(() => void) | undefined} */
  #unwatch

  /** @param {any} server a `net.Server` */
  constructor(server) {
    this.#server = server
  }

  /** From now on responses get cookies, if this is a server of HTTP/1. */
  watch() {
    const server = this.#server
    if (this.#unwatch || !(server instanceof http.Server || server instanceof https.Server)) return
    this.#unwatch = watchRequests(server, (request, response) => {
      const cookie = cookieFor(request)
      if (cookie) setCookie(response, cookie.name, cookie.line)
    })
    // A listener for 'upgrade' would change what Node does with requests for one.
    const before = Object.getOwnPropertyDescriptor(server, 'emit')
    const { emit } = server
    const value = (/** @type {string} */ event, /** @type {any[]} */ ...args) => {
      if (event === 'upgrade' && this.#unwatch) this.#onUpgrade(args[0], args[1])
      return emit.call(server, event, ...args)
    }
    Object.defineProperty(server, 'emit', { configurable: true, value, writable: true })
    this.#restore = () => {
      // Who has put a function of their own on this since then goes on calling it.
      if (/** @type {unknown} */ (server.emit) !== value) return
      if (before) Object.defineProperty(server, 'emit', before)
      else Reflect.deleteProperty(server, 'emit')
    }
  }

  close() {
    this.#unwatch?.()
    this.#unwatch = undefined
    this.#restore()
  }

  #restore = () => {}

  /**
   * @param {IncomingMessage} request
   * @param {import('node:stream').Duplex} socket to answer on, which need not be the request's
   */
  #onUpgrade(request, socket) {
    const cookie = cookieFor(request)
    if (cookie) setCookieOnUpgrade(socket, cookie.name, cookie.line)
  }
}

/**
 * The cookie that a request's client is to be given, if it is.
 * @param {IncomingMessage} request
 */
function cookieFor(request) {
  const balancer = balancerOf(request.socket)
  const cookie = balancer?.sessions?.cookie
  if (!balancer || !cookie) return
  const { session, unread } = balancer.client(request)
  // One whose head is too long to be read may well show a session.
  if (session >= 0 || unread) return
  const token = tokenOf(request.socket)
  const secure = cookie.secure === 'auto' ? isSecure(request) : cookie.secure
  return (
    token && { name: cookie.name, line: cookieLine(cookie.name, token, cookie, secure || cookie.sameSite === 'none') }
  )
}

/**
 * Whether a client has sent its request over TLS, here or, as it says, to a proxy. One that lies has a cookie that it does
 * not send again.
 * @param {IncomingMessage} request
 */
function isSecure({ socket, headers }) {
  const protocol = headers['x-forwarded-proto']
  return 'encrypted' in socket || /^https\b/i.test(`${protocol ?? ''}`)
}

module.exports = { SessionCookies }
