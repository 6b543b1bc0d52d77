'use strict'

// Takes its connections from balancer.js.

const { createServer } = require('./server')

require(process.argv[2]).listen(createServer())
process.send?.({ cmd: 'ready' })
