'use strict'

// Places that nobody else has: a folder, a port.

const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

/**
 * An empty folder, which goes with all that is in it when the test ends.
 * @param {import('node:test').TestContext} t
 * @returns {string}
 */
function directory(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
  t.after(() => fs.rmSync(made, { recursive: true, force: true }))
  return made
}

/**
 * A port of that address on which nobody listens.
 * @param {string} host
 * @returns {Promise<number>}
 */
async function freePort(host) {
  const server = net.createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

module.exports = { directory, freePort }
