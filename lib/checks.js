'use strict'

// Checks of values that users pass, whatever they are for. What is wrong is named as the user wrote it.

const { Stream } = require('node:stream')
const { invalidArgType, invalidArgValue, outOfRange } = require('./errors')
const warnings = require('./warnings')
const native = require('../native')

/**
 * A check takes a value that is not undefined, and the name to blame; it returns what it stands for.
 * @typedef {{ [option: string]: (value: any, name: string) => unknown }} Checks
 */

/**
 * @param {any} options
 * @param {Checks} checks
 * @param {string} [name]
 */
function check(options, checks, name = 'options') {
  /** @type {{ [option: string]: any }} */
  const checked = {}
  if (options === undefined) return checked
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidArgType(name, 'of type object', options)
  }
  for (const option of Object.keys(checks)) {
    const value = options[option]
    if (value !== undefined) checked[option] = checks[option](value, `${name}.${option}`)
  }
  for (const option of Object.keys(options)) {
    if (Object.hasOwn(checks, option)) continue
    const path = `${name}.${option}`.replace(/^options\./, '')
    warnings.unknownOption(path, native.nearest(option, Object.keys(checks)))
  }
  return checked
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
 * @param {unknown} value
 * @param {string} name
 */
function checkText(value, name) {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (value === '') throw invalidArgValue(name, value, 'must not be empty')
  return value
}

// The token of RFC 9110, 5.6.2.
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/

/**
 * @param {unknown} value
 * @param {string} name
 * @param {string} what it has to be
 */
function checkToken(value, name, what) {
  if (typeof value !== 'string') throw invalidArgType(name, 'of type string', value)
  if (!TOKEN.test(value)) throw invalidArgValue(name, value, `must be ${what}`)
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
 * @template {string | boolean} V
 * @param {unknown} value
 * @param {string} name
 * @param {V[]} values
 * @returns {V}
 */
function checkOneOf(value, name, values) {
  const list = values.map((one) => (typeof one === 'string' ? `'${one}'` : one)).join(', ')
  if (!values.some((one) => typeof one === typeof value)) throw invalidArgType(name, `one of ${list}`, value)
  const known = values.find((one) => one === value)
  if (known === undefined) throw invalidArgValue(name, value, `must be one of: ${list}`)
  return known
}

/**
 * The socket that a value is, or that it has if it is a request. (Where a program is tried without a network, a request has
 * what is no socket, or none.)
 * @param {any} value
 * @param {string} name
 */
function checkSocket(value, name) {
  const socket = value?.socket ?? value
  if (value instanceof Stream || socket instanceof Stream) return socket
  throw invalidArgType(name, 'a request of http, or a socket', value)
}

module.exports = { check, checkBoolean, checkInteger, checkNumber, checkOneOf, checkSocket, checkText, checkToken }
