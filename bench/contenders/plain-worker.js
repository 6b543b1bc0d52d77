'use strict'

// Listens by itself: under node:cluster on the common port, behind a proxy on one of its own, which it
// tells.

const { PORT } = require('./environment')
const { createServer } = require('./server')

const server = createServer()
server.listen({ port: PORT, host: process.argv[2] }, () => {
  process.send?.({ port: /** @type {import('node:net').AddressInfo} */ (server.address()).port })
})
