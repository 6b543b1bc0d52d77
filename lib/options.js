'use strict'

// What users may pass, checked and completed. The native side trusts what comes from here.

const cluster = require('node:cluster')
const { createHash, randomBytes } = require('node:crypto')
const { invalidArgType, invalidArgValue, outOfRange } = require('./errors')
const warnings = require('./warnings')
const native = require('../native')

const DEFAULT_NAME = 'default'

// Bytes of the key under which clients are hashed.
const KEY_LENGTH = 8

// A timer of Node can wait no longer.
const MAX_DELAY = 2 ** 31 - 1

// A connection of which nothing is taken off holds little more.
const MAX_LOOK = 2 ** 16

/**
 * A balancer's options, complete.
 * @typedef {object} Options
 * @property {import('..').ActiveWorkers} [activeWorkers]
 * @property {number} retryDelay
 * @property {number} maxRetries
 * @property {Buffer} key
 * @property {number} ipv6Prefix
 * @property {number} maxPending
 * @property {string} name
 * @property {boolean} behindProxy
 * @property {string} cipHeader
 * @property {Trust} trustProxy
 * @property {number} headerTimeout
 * @property {number} maxHeaderSize
 * @property {boolean} proxyProtocol
 * @property {'auto' | 'kernel' | 'handover'} steering
 */

/**
 * Whose word about a client counts: everybody's, if it says nothing.
 * @typedef {{ hops?: number, networks?: string[] }} Trust
 */

/**
 * A check takes a value that is not undefined, and the name to blame; it returns what it stands for.
 * @type {{ [option: string]: (value: any, name: string) => unknown }}
 */
const BALANCER_CHECKS = {
  activeWorkers: checkActiveWorkers,
  retryDelay: (value, name) => checkNumber(value, name, 0, MAX_DELAY),
  maxRetries: (value, name) => (value === Infinity ? value : checkInteger(value, name, 0, Number.MAX_SAFE_INTEGER)),
  seed: checkSeed,
  ipv6Prefix: (value, name) => checkInteger(value, name, 1, 128),
  maxPending: (value, name) => checkInteger(value, name, 1, 2 ** 32 - 1),
  name: checkName,
  behindProxy: checkBoolean,
  cipHeader: checkHeader,
  trustProxy: checkTrust,
  headerTimeout: (value, name) => checkNumber(value, name, 1, MAX_DELAY),
  maxHeaderSize: (value, name) => checkInteger(value, name, 256, MAX_LOOK),
  proxyProtocol: checkBoolean,
  steering: (value, name) => checkOneOf(value, name, ['auto', 'kernel', 'handover']),
}

/** @type {typeof BALANCER_CHECKS} */
const LISTEN_CHECKS = { name: checkName }

/**
 * `createBalancer(options)` and `createBalancer(activeWorkers, options)`.
 * @param {unknown} first
 * @param {unknown} second
 * @returns {Options}
 */
function balancerOptions(first, second) {
  const positional = typeof first === 'function' ? /** @type {any} */ (first) : undefined
  const remedy = remedyFor(first)
  const isOptions = typeof first === 'object' && first !== null && second === undefined && !remedy
  if (!positional && first !== undefined && !isOptions) {
    const expected = second === undefined ? 'a function, or an object of options' : 'a function'
    throw invalidArgType('activeWorkers', expected, first, remedy)
  }
  const given = check(positional || first === undefined ? second : first, BALANCER_CHECKS)
  if (positional && given.activeWorkers !== undefined && given.activeWorkers !== first) {
    throw invalidArgValue('options.activeWorkers', given.activeWorkers, 'was also given as the first argument')
  }
  const { seed = randomBytes(KEY_LENGTH), ...rest } = given
  return {
    retryDelay: 150,
    maxRetries: 5,
    ipv6Prefix: 128,
    maxPending: 1024,
    name: DEFAULT_NAME,
    behindProxy: false,
    cipHeader: 'x-forwarded-for',
    trustProxy: {},
    headerTimeout: 10_000,
    maxHeaderSize: 16 * 1024,
    proxyProtocol: false,
    steering: 'auto',
    ...(positional ? { activeWorkers: positional } : {}),
    ...rest,
    key: seed,
  }
}

/**
 * What somebody should have passed who passed a manager, or workers, for the function that returns them.
 * @param {any} first
 */
function remedyFor(first) {
  if (typeof first !== 'object' || first === null) return
  if (first === cluster) return 'For the workers of node:cluster leave it out: createBalancer(options)'
  if (Array.isArray(first) || isWorker(first) || Object.values(first).some(isWorker)) {
    return 'Pass a function that returns the workers; for those of node:cluster leave it out: createBalancer(options)'
  }
  if (typeof first.emit === 'function') {
    return 'Pass the function of the manager: createBalancer(cluster.activeWorkers, options)'
  }
}

/** @param {any} value */
function isWorker(value) {
  return typeof (value?.process ?? value)?.send === 'function'
}

/**
 * `listen(server, options)`.
 * @param {unknown} options
 * @returns {{ name: string }}
 */
function listenOptions(options) {
  return { name: DEFAULT_NAME, ...check(options, LISTEN_CHECKS) }
}

/**
 * @param {any} options
 * @param {typeof BALANCER_CHECKS} checks
 */
function check(options, checks) {
  /** @type {{ [option: string]: any }} */
  const checked = {}
  if (options === undefined || options === null) return checked
  if (typeof options !== 'object') throw invalidArgType('options', 'of type object', options)
  for (const option of Object.keys(checks)) {
    const value = options[option]
    if (value !== undefined) checked[option] = checks[option](value, `options.${option}`)
  }
  for (const option of Object.keys(options)) {
    if (!Object.hasOwn(checks, option)) warnings.unknownOption(option, native.nearest(option, Object.keys(checks)))
  }
  return checked
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkActiveWorkers(value, name) {
  if (typeof value !== 'function') throw invalidArgType(name, 'a function that returns the worker processes', value)
  return value
}

/**
 * @param {unknown} value
 * @param {string} name
 * @param {number} min
 * @param {number} max
 */
function checkNumber(value, name, min, max) {
  if (typeof value !== 'number') throw invalidArgType(name, 'of type number', value)
  if (!(value >= min && value <= max)) throw outOfRange(name, `>= ${min} && <= ${max}`, value)
  return value
}

/**
 * @param {unknown} value
 * @param {string} name
 * @param {number} min
 * @param {number} max
 */
function checkInteger(value, name, min, max) {
  if (typeof value === 'number' && !Number.isInteger(value)) throw outOfRange(name, 'an integer', value)
  return checkNumber(value, name, min, max)
}

/**
 * Any seed makes a key of the hash's length; hosts with the same seed get the same key.
 * @param {unknown} value
 * @param {string} name
 */
function checkSeed(value, name) {
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    throw invalidArgType(name, 'of type string or an instance of Uint8Array', value)
  }
  if (value.length === 0) throw invalidArgValue(name, value, 'must not be empty')
  return createHash('sha256').update(value).digest().subarray(0, KEY_LENGTH)
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkName(value, name) {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (value === '') throw invalidArgValue(name, value, 'must not be empty')
  return value
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkBoolean(value, name) {
  if (typeof value !== 'boolean') throw invalidArgType(name, 'of type boolean', value)
  return value
}

/**
 * @param {unknown} value
 * @param {string} name
 * @param {string[]} values
 */
function checkOneOf(value, name, values) {
  const list = values.map((one) => `'${one}'`).join(', ')
  if (typeof value !== 'string') throw invalidArgType(name, `one of ${list}`, value)
  if (!values.includes(value)) throw invalidArgValue(name, value, `must be one of: ${list}`)
  return value
}

// The token of RFC 9110, 5.6.2.
const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkHeader(value, name) {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (!HEADER_NAME.test(value)) throw invalidArgValue(name, value, 'must be the name of a header')
  return value.toLowerCase()
}

/**
 * As Express has it: a number of hops, or networks, in an array or between commas.
 * @param {unknown} value
 * @param {string} name
 * @returns {Trust}
 */
function checkTrust(value, name) {
  if (typeof value === 'number') return { hops: checkInteger(value, name, 0, 2 ** 32 - 1) }
  if (typeof value !== 'string' && !Array.isArray(value)) {
    throw invalidArgType(name, 'a number of hops, a string, or an array of strings', value)
  }
  const words = typeof value === 'string' ? value.split(',').map((word) => word.trim()) : value
  for (const word of words) {
    if (typeof word !== 'string') throw invalidArgType(`${name}[]`, 'of type string', word)
    if (!native.isNetwork(word)) {
      const expected = "must be an address, a CIDR, 'loopback', 'linklocal' or 'uniquelocal'"
      throw invalidArgValue(`${name}[]`, word, expected)
    }
  }
  return { networks: words }
}

module.exports = { balancerOptions, listenOptions }
