'use strict'

// One debug channel for both processes: NODE_DEBUG=sticky-listen.

module.exports = require('node:util').debuglog('sticky-listen')
