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

/** What is a token and nothing else, by its looks. Quotation marks are no part of a cookie's value. */
const TOKEN = /^(?:[\w-]{16}|"[\w-]{16}")$/

/** The methods with which a browser follows a link. */
const SAFE = new Set(['GET', 'HEAD'])

/** A parameter of the first element of RFC 7239, which is the client's. */
const FORWARDED_HTTPS = /^(?:[^,"]|"(?:[^"\\]|\\.)*")*?(?<![^;\s])proto="?https"?\s*(?:[;,]|$)/i

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
  if (unread || (session >= 0 && cookie.maxAge === undefined)) return
  const shown = valuesOf(request.headers.cookie, cookie.name)
  // One of another shape is the application's own.
  if (!shown.every((value) => TOKEN.test(value)) || !comesBack(request, cookie)) return
  const token = session < 0 ? tokenOf(request.socket) : renewed(request, balancer.token(session), shown)
  if (!token) return
  const secure = cookie.secure === 'auto' ? isSecure(request) : cookie.secure
  return { name: cookie.name, line: cookieLine(cookie.name, token, cookie, secure) }
}

/**
 * The token whose cookie is to last longer, if this is the time: whenever it is shown, but for pictures, scripts and the
 * like, as responses that set cookies are not stored in shared caches.
 * @param {IncomingMessage} request
 * @param {string | undefined} token of its session
 * @param {string[]} shown
 */
function renewed({ headers }, token, shown) {
  const destination = headers['sec-fetch-dest'] ?? 'empty'
  if (destination !== 'empty' && destination !== 'document') return
  return shown.find((value) => value === token)
}

/**
 * The values of the cookies of a name, of which there may be several.
 * @param {string} header
 * @param {string} name
 */
function valuesOf(header = '', name) {
  return header
    .split(';')
    .map((cookie) => cookie.trim())
    .filter((cookie) => cookie.startsWith(`${name}=`))
    .map((cookie) => cookie.slice(name.length + 1))
}

/**
 * Whether a browser that has the cookie sends it with such a request. If not, that the request shows none says nothing, and
 * another cookie would take the place of a good one.
 * @param {IncomingMessage} request
 * @param {import('../affinity').Cookie} cookie
 */
function comesBack({ method = '', url = '', headers }, { path, sameSite }) {
  if (path !== '/' && !pathMatches(url, path)) return false
  if (sameSite === 'none' || headers['sec-fetch-site'] !== 'cross-site') return true
  const followsLink = SAFE.has(method) && headers['sec-fetch-mode'] === 'navigate'
  return sameSite === 'lax' && followsLink
}

/**
 * RFC 6265, 5.1.4.
 * @param {string} url of a request
 * @param {string} path of a cookie
 */
function pathMatches(url, path) {
  const [asked] = url.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?]*/i, '').split('?', 1)
  return asked === path || (asked.startsWith(path) && (path.endsWith('/') || asked[path.length] === '/'))
}

/**
 * Whether a client has sent its request over TLS, here or, as it says, to a proxy. One that lies has a cookie that it does
 * not send again.
 * @param {IncomingMessage} request
 */
function isSecure({ socket, headers }) {
  const { 'x-forwarded-proto': protocol = '', forwarded = '' } = headers
  return 'encrypted' in socket || /^https\b/i.test(`${protocol}`) || FORWARDED_HTTPS.test(forwarded)
}

module.exports = { SessionCookies }
