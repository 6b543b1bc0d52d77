'use strict'

// A worker that writes down each connection it adopts and each request before it answers, so that what a killed worker
// had is known.
//
//   GET /<id>         the answer
//   GET /<id>/stream  in parts, some time apart
//   POST /<id>        with the length and the hash of what came

const { createHash } = require('node:crypto')
const http = require('node:http')
const { openLog } = require('../log')

const log = openLog(/** @type {string} */ (process.env.SOAK_LOG))
logAdoptions()
const sticky = require('../..')

/**
 * The debug log names each connection before it is acknowledged. Node prints it without a time, and formats more than is
 * needed.
 */
function logAdoptions() {
  const file = require.resolve('../../lib/debug')
  require(file)
  const debug = (/** @type {string} */ format, /** @type {any} */ ...values) => {
    if (format === 'adopting %j') log('adopted', { key: `${values[0].address}:${values[0].port}` })
    else log('debug', { format, values })
  }
  const loaded = require.cache[file]
  if (loaded) loaded.exports = Object.assign(debug, { enabled: true })
}

const server = http.createServer((request, response) => {
  const [, id, how] = /** @type {string} */ (request.url).split(/[/?]/)
  const hash = createHash('sha1')
  let bytes = 0
  request.on('data', (chunk) => {
    hash.update(chunk)
    bytes += chunk.length
  })
  request.on('end', () => {
    const token = sticky.token(request)
    const text = JSON.stringify({ id, pid: process.pid, token, bytes, hash: hash.digest('hex') })
    const { remoteAddress, remotePort } = request.socket
    log('answered', { id, key: `${remoteAddress}:${remotePort}` })
    if (how === 'stream') stream(response, text)
    else response.end(text)
  })
})

const PARTS = 4
const PART_EVERY = 80

/**
 * @param {http.ServerResponse} response
 * @param {string} text
 */
function stream(response, text) {
  response.setHeader('Content-Length', Buffer.byteLength(text))
  const size = Math.ceil(text.length / PARTS)
  const write = (/** @type {number} */ from) => {
    if (from + size >= text.length) return response.end(text.slice(from))
    response.write(text.slice(from, from + size))
    setTimeout(write, PART_EVERY, from + size)
  }
  write(0)
}

sticky.listen(server)
if (process.connected) process.send?.({ cmd: 'ready' })
