'use strict'

// Sets a cookie with a response, beside whatever the application sets.

const { changeHead, withLine } = require('./response-head')

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
 * @param {import('node:http').ServerResponse} response of which nothing is written yet
 * @param {string} name
 * @param {string} cookie
 */
function setCookie(response, name, cookie) {
  changeHead(response, (head) => (setsCookie(head, name) ? head : withLine(head, `Set-Cookie: ${cookie}`)))
}

module.exports = { cookieLine, setCookie, setsCookie }
