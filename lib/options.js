'use strict'

// What users may pass, checked and completed. The native side trusts what comes from here.

const cluster = require('node:cluster')
const { createHash, randomBytes } = require('node:crypto')
const { checkAffinity } = require('./affinity')
const { check, checkBoolean, checkInteger, checkNumber, checkOneOf, checkText, checkToken } = require('./checks')
const { invalidArgType, invalidArgValue } = require('./errors')
const warnings = require('./warnings')
const native = require('../native')

const DEFAULT_NAME = 'default'

// Bytes of the keys under which clients are hashed, and tokens made.
const SECRETS_LENGTH = 8 + 16

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
 * @property {Buffer} secrets the keys of clients (8 bytes) and of tokens (16)
 * @property {boolean} seeded whether they follow from a seed
 * @property {number} ipv6Prefix
 * @property {number} maxPending
 * @property {string} name
 * @property {boolean} behindProxy
 * @property {string} cipHeader
 * @property {Trust} trustProxy
 * @property {number} headerTimeout
 * @property {number} maxHeaderSize
 * @property {boolean} proxyProtocol
 * @property {import('./affinity').Affinity} [affinity]
 * @property {'auto' | 'kernel' | 'handover'} steering
 * @property {string} [takeOver]
 */

/**
 * Whose word about a client counts: everybody's, if it says nothing.
 * @typedef {{ hops?: number, networks?: string[] }} Trust
 */

/** @type {import('./checks').Checks} */
const BALANCER_CHECKS = {
  activeWorkers: checkActiveWorkers,
  retryDelay: (value, name) => checkNumber(value, name, 0, MAX_DELAY),
  maxRetries: (value, name) => (value === Infinity ? value : checkInteger(value, name, 0, Number.MAX_SAFE_INTEGER)),
  seed: checkSeed,
  ipv6Prefix: (value, name) => checkInteger(value, name, 1, 128),
  maxPending: (value, name) => checkInteger(value, name, 1, 2 ** 32 - 1),
  name: checkText,
  behindProxy: checkBoolean,
  cipHeader: checkHeader,
  trustProxy: checkTrust,
  headerTimeout: (value, name) => checkNumber(value, name, 1, MAX_DELAY),
  maxHeaderSize: (value, name) => checkInteger(value, name, 256, MAX_LOOK),
  proxyProtocol: checkBoolean,
  affinity: checkAffinity,
  steering: (value, name) => checkOneOf(value, name, ['auto', 'kernel', 'handover']),
  takeOver: checkText,
}

/**
 * Options that nothing reads without one of others.
 * @type {Record<string, (checked: any) => string[]>}
 */
const READERS = {
  cipHeader: () => ['behindProxy'],
  // Hops are counted in a header; who speaks the PROXY protocol is the peer.
  trustProxy: ({ hops }) => (hops === undefined ? ['behindProxy', 'proxyProtocol'] : ['behindProxy']),
  headerTimeout: () => ['behindProxy', 'proxyProtocol', 'affinity'],
  maxHeaderSize: () => ['behindProxy', 'proxyProtocol', 'affinity'],
}

/** @type {import('./checks').Checks} */
const LISTEN_CHECKS = { name: checkText }

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
  warnOfUnused(given)
  const { seed, ...rest } = given
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
    secrets: seed ?? randomBytes(SECRETS_LENGTH),
    seeded: seed !== undefined,
  }
}

/**
 * A warning and no error: programs of version 3 may have any combination.
 * @param {Record<string, any>} given
 */
function warnOfUnused(given) {
  for (const [option, readers] of Object.entries(READERS)) {
    if (given[option] === undefined) continue
    const needed = readers(given[option])
    // Who turns them off in so many words knows.
    if (needed.every((reader) => given[reader] === undefined)) warnings.unusedOption(option, needed.join(' or '))
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
  if (typeof options === 'function') {
    const remedy = "To be called when the server listens: server.once('listening', callback)"
    throw invalidArgType('options', 'of type object', options, remedy)
  }
  return { name: DEFAULT_NAME, ...check(options, LISTEN_CHECKS) }
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
 * Any seed makes keys of the right length; hosts with the same seed get the same keys.
 * @param {unknown} value
 * @param {string} name
 */
function checkSeed(value, name) {
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    throw invalidArgType(name, 'of type string or an instance of Uint8Array', value)
  }
  if (value.length === 0) throw invalidArgValue(name, value, 'must not be empty')
  return createHash('sha256').update(value).digest().subarray(0, SECRETS_LENGTH)
}

/**
 * @param {unknown} value
 * @param {string} name
 */
function checkHeader(value, name) {
  return checkToken(value, name, 'the name of a header').toLowerCase()
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
  const isList = Array.isArray(value)
  const words = isList ? value : value.split(',').map((word) => word.trim())
  const nameOfWord = isList ? `${name}[]` : name
  for (const word of words) {
    if (typeof word !== 'string') throw invalidArgType(nameOfWord, 'of type string', word)
    if (!native.isNetwork(word)) {
      const expected = "must be an address, a CIDR, 'loopback', 'linklocal' or 'uniquelocal'"
      throw invalidArgValue(nameOfWord, word, expected)
    }
  }
  return { networks: words }
}

module.exports = { balancerOptions, listenOptions }
