'use strict'

// What a worker's program uses of sessions: their tokens.

const { randomBytes } = require('node:crypto')
const { checkSocket } = require('../checks')
const { tokenOf } = require('./adopted')

// What the ids of engine.io hold, in bytes.
const ID_LENGTH = 15

/**
 * @param {any} from a request or a socket
 * @returns {string | undefined}
 */
function token(from) {
  return tokenOf(checkSocket(from, 'from'))
}

/**
 * @param {any} request
 * @returns {string}
 */
function generateId(request) {
  const id = randomBytes(ID_LENGTH).toString('base64url')
  const slot = tokenOf(checkSocket(request, 'request'))
  return slot === undefined ? id : `${id}.${slot}`
}

module.exports = { generateId, token }
