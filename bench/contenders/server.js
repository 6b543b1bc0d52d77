'use strict'

// The server that every contender's workers run: who am I, at two lengths, and WebSockets.

const http = require('node:http')
const { WebSocketServer } = require('ws')

const LARGE = 64 * 1024

/** A server that answers with this process's number; at `/64k`, filled up to 64 kB. */
function createServer() {
  const small = String(process.pid)
  const large = Buffer.alloc(LARGE, '.')
  large.write(`${small}\n`)
  const server = http.createServer((req, res) => res.end(req.url === '/64k' ? large : small))
  new WebSocketServer({ server })
  return server
}

module.exports = { createServer }
