'use strict'

// The option `affinity`, checked and completed: by what a connection finds its slot.

const { check, checkBoolean, checkInteger, checkOneOf, checkText, checkToken } = require('./checks')
const { invalidArgType, invalidArgValue } = require('./errors')

/**
 * Where requests show the token of their session; by address if there is none of this.
 * @typedef {object} Affinity
 * @property {string} [query]
 * @property {Cookie} [cookie]
 * @property {'room' | 'address'} fallback
 */

/**
 * @typedef {object} Cookie
 * @property {string} name
 * @property {string} path
 * @property {string} [domain]
 * @property {'lax' | 'strict' | 'none'} sameSite
 * @property {boolean | 'auto'} secure
 * @property {boolean} httpOnly
 * @property {number} [maxAge] seconds
 */

// What a browser keeps no longer than anyway, in seconds: 400 days.
const MAX_AGE = 400 * 24 * 3600

// Prefixes of names, in any case, by which a browser knows what else the cookie has to be.
const SECURE_PREFIX = /^__(Secure|Host)-/i
const HOST_PREFIX = /^__Host-/i

/** @type {import('./checks').Checks} */
const COOKIE_CHECKS = {
  name: checkCookieName,
  path: checkPath,
  domain: checkAttribute,
  sameSite: (value, name) => checkOneOf(value, name, ['lax', 'strict', 'none']),
  secure: (value, name) => checkOneOf(value, name, [true, false, 'auto']),
  httpOnly: checkBoolean,
  maxAge: (value, name) => checkInteger(value, name, 1, MAX_AGE),
}

/** @type {import('./checks').Checks} */
const AFFINITY_CHECKS = {
  query: checkText,
  cookie: checkCookie,
  fallback: (value, name) => checkOneOf(value, name, ['room', 'address']),
}

/**
 * @param {unknown} value
 * @param {string} name
 * @returns {Affinity | undefined}
 */
function checkAffinity(value, name) {
  if (value === 'address') return
  if (typeof value === 'string') throw invalidArgValue(name, value, "must be 'address', or an object")
  if (typeof value !== 'object' || value === null) throw invalidArgType(name, "'address', or an object", value)
  const { fallback = 'room', ...places } = check(value, AFFINITY_CHECKS, name)
  if (!places.query && !places.cookie) {
    throw invalidArgValue(name, value, 'must name where requests show their session: a query parameter, or a cookie')
  }
  return { fallback, ...places }
}

/**
 * @param {unknown} value
 * @param {string} name
 * @returns {Cookie}
 */
function checkCookie(value, name) {
  if (typeof value !== 'string' && (typeof value !== 'object' || value === null)) {
    throw invalidArgType(name, 'of type string or object', value)
  }
  const given = typeof value === 'string' ? { name: checkCookieName(value, name) } : check(value, COOKIE_CHECKS, name)
  if (given.name === undefined) throw invalidArgType(`${name}.name`, 'of type string', given.name)
  /** @type {Cookie} */
  const cookie = { name: given.name, path: '/', sameSite: 'lax', secure: 'auto', httpOnly: true, ...given }
  // No browser would keep it otherwise.
  const prefixed = SECURE_PREFIX.test(cookie.name)
  if (cookie.sameSite === 'none' && cookie.secure === false) {
    throw invalidArgValue(`${name}.sameSite`, cookie.sameSite, 'needs a cookie that is secure')
  }
  if (prefixed && cookie.secure === false) {
    throw invalidArgValue(`${name}.secure`, cookie.secure, `must not be false for a cookie named '${cookie.name}'`)
  }
  if (HOST_PREFIX.test(cookie.name) && cookie.path !== '/') {
    throw invalidArgValue(`${name}.path`, cookie.path, `must be '/' for a cookie named '${cookie.name}'`)
  }
  if (HOST_PREFIX.test(cookie.name) && cookie.domain !== undefined) {
    throw invalidArgValue(`${name}.domain`, cookie.domain, `must be left out for a cookie named '${cookie.name}'`)
  }
  if (prefixed || cookie.sameSite === 'none') cookie.secure = true
  return cookie
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkCookieName(value, name) {
  return checkToken(value, name, 'the name of a cookie')
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkAttribute(value, name) {
  const text = checkText(value, name)
  // What else could not stand between the semicolons of a header.
  if (!/^[\x20-\x3a\x3c-\x7e]+$/.test(text)) {
    throw invalidArgValue(name, value, 'must be visible ASCII without a semicolon')
  }
  return text
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkPath(value, name) {
  const text = checkAttribute(value, name)
  // Browsers take any other for none.
  if (!text.startsWith('/')) throw invalidArgValue(name, value, 'must begin with a slash')
  return text
}

/**
 * The same for native code.
 * @param {Affinity} affinity
 * @param {Buffer} key
 */
function nativeSessions({ query, cookie, fallback }, key) {
  return { key, query, cookie: cookie?.name, fallBackToAddress: fallback === 'address' }
}

module.exports = { checkAffinity, nativeSessions }
