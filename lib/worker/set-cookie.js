'use strict'

// Sets a cookie with a response, beside whatever the application sets.

/**
 * @typedef {object} CookieAttributes
 * @property {string} path
 * @property {string} [domain]
 * @property {'lax' | 'strict' | 'none'} sameSite
 * @property {boolean} httpOnly
 * @property {number} [maxAge] in seconds
 */

/**
 * The value of a Set-Cookie line. Nothing in it is escaped or looked at.
 * @param {string} name
 * @param {string} value
 * @param {CookieAttributes} attributes
 * @param {boolean} secure
 */
function cookieLine(name, value, { path, domain, sameSite, httpOnly, maxAge }, secure) {
  let line = `${name}=${value}; Path=${path}`
  if (domain !== undefined) line += `; Domain=${domain}`
  if (maxAge !== undefined) line += `; Max-Age=${maxAge}`
  if (httpOnly) line += '; HttpOnly'
  if (secure) line += '; Secure'
  return `${line}; SameSite=${sameSite[0].toUpperCase()}${sameSite.slice(1)}`
}

/**
 * Whether a head sets a cookie of that name.
 * @param {string} head
 * @param {string} name
 */
function setsCookie(head, name) {
  return Array.from(head.matchAll(/^set-cookie:([^=;\r\n]*)=/gim)).some(([, set]) => set.trim() === name)
}

/**
 * The response sets the cookie as well, unless the application sets one of that name.
 *
 * The line is added to the head as Node has written it down, when it is about to be sent. Added to the
 * headers instead, it would change what they mean: `writeHead` takes lists of pairs, and with some versions of
 * Node duplicates, only while no header was ever set. And the application would see it in `getHeaders()`.
 * @param {import('node:http').ServerResponse} response of which nothing is written yet
 * @param {string} name
 * @param {string} cookie
 */
function setCookie(response, name, cookie) {
  const { writeHead } = response
  /**
   * @this {any}
   * @param {any[]} args
   */
  function writeHeadWithCookie(...args) {
    const result = Reflect.apply(writeHead, this, args)
    // Whatever the application has set is in it by now, in whatever way it did. (It has been sent as well, so
    // that this comes too late, if there is an Expect header, which means nothing in a response.)
    const { _header: head } = this
    if (typeof head === 'string' && !setsCookie(head, name)) {
      this._header = `${head.slice(0, -'\r\n'.length)}Set-Cookie: ${cookie}\r\n\r\n`
    }
    return result
  }
  Object.defineProperty(response, 'writeHead', { value: writeHeadWithCookie, writable: true, configurable: true })
}

module.exports = { cookieLine, setCookie, setsCookie }
