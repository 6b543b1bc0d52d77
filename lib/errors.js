'use strict'

// Every error that is ours. Bad arguments look like Node's own (the same codes and words, and then where to read on); what
// only this package can say has a code that begins with ERR_STICKY_.

const { inspect } = require('node:util')
const { isMainThread } = require('node:worker_threads')
const { inWords, readOn } = require('./help')

/**
 * @template {Error} E
 * @param {new (message: string, options?: ErrorOptions) => E} Class
 * @param {string} code
 * @param {string} message
 * @param {ErrorOptions} [options]
 */
function coded(Class, code, message, options) {
  const error = new Class(`${message}${message.endsWith('.') ? '' : '.'} ${readOn(code)}`, options)
  // As Node's own errors: the code is part of the stack's first line, not of the name.
  Error.captureStackTrace(error, coded)
  error.stack = error.stack?.replace(error.name, () => `${error.name} [${code}]`)
  return Object.assign(error, { code })
}

/**
 * @param {string} name what was wrong, as the user wrote it
 * @param {string} expected
 * @param {unknown} value
 * @param {string} [remedy]
 */
function invalidArgType(name, expected, value, remedy) {
  const message = `The "${name}" ${kind(name)} must be ${expected}. Received ${inWords(value)}${remedy ? `. ${remedy}` : ''}`
  return coded(TypeError, 'ERR_INVALID_ARG_TYPE', message)
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {string} reason
 */
function invalidArgValue(name, value, reason) {
  const message = `The ${kind(name)} '${name}' ${reason}. Received ${inspect(value)}`
  return coded(TypeError, 'ERR_INVALID_ARG_VALUE', message)
}

/**
 * @param {string} name
 * @param {string} range
 * @param {unknown} value
 */
function outOfRange(name, range, value) {
  const message = `The value of "${name}" is out of range. It must be ${range}. Received ${inspect(value)}`
  return coded(RangeError, 'ERR_OUT_OF_RANGE', message)
}

/** @param {string} name */
function kind(name) {
  return name.includes('.') ? 'property' : 'argument'
}

function serverAlreadyListens() {
  const message = 'Listen method has been called more than once without closing.'
  return coded(Error, 'ERR_SERVER_ALREADY_LISTEN', message)
}

function notAWorker() {
  const why = isMainThread
    ? 'this process has no IPC channel to one. Start it'
    : 'a thread of worker_threads has no IPC channel to one, even if its process has. Call it in the main thread of a ' +
      'process that you start'
  const message =
    `sticky.listen(server) receives its connections from a balancer in the parent process, but ${why} with cluster.fork() ` +
    'or child_process.fork(), or use server.listen().'
  return coded(Error, 'ERR_STICKY_NOT_A_WORKER', message)
}

/** @param {string} reason */
function kernelCannotSteer(reason) {
  const message =
    `The option "steering" is 'kernel', but the kernel cannot steer here: ${reason}. Use 'auto' or 'handover', with ` +
    'which the primary process hands the connections over.'
  return coded(Error, 'ERR_STICKY_STEERING', message)
}

/** @param {string} name */
function nameTaken(name) {
  const message =
    `A server named ${inspect(name)} already takes the connections of this worker. Close it first, or ` +
    'give this one another name: sticky.listen(server, { name }).'
  return coded(Error, 'ERR_STICKY_NAME_TAKEN', message)
}

/**
 * @param {string} platform
 * @param {string} node its version
 * @param {string[]} wanted what was looked for
 * @param {string} advice
 * @param {unknown} [cause]
 */
function noBinary(platform, node, wanted, advice, cause) {
  const message = `sticky-listen has no binary to load on ${platform} with Node ${node}. It looked for ${wanted.join(' and ')}. ${advice}`
  return coded(Error, 'ERR_STICKY_NO_BINARY', message, cause === undefined ? undefined : { cause })
}

/**
 * @param {string} path
 * @param {string} reason
 */
function cannotTakeOver(path, reason) {
  return coded(Error, 'ERR_STICKY_TAKE_OVER', `Nobody can take over by way of ${path}: ${reason}.`)
}

module.exports = {
  cannotTakeOver,
  invalidArgType,
  invalidArgValue,
  kernelCannotSteer,
  nameTaken,
  noBinary,
  notAWorker,
  outOfRange,
  serverAlreadyListens,
}
