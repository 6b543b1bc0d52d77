'use strict'

// Listens by itself: under node:cluster on the common port, behind a proxy on one of its own, which it
// tells. Arguments: the address, or --reuseport.

const { PORT } = require('./environment')
const { createServer } = require('./server')

const server = createServer()
const [argument] = process.argv.slice(2)
const where = argument === '--reuseport' ? { reusePort: true } : { host: argument }
server.listen({ port: PORT, ...where }, () => {
  process.send?.({ port: /** @type {import('node:net').AddressInfo} */ (server.address()).port })
})
