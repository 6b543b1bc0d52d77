'use strict'

// sticky-listen, this or the original: the two calls are the same. Arguments: the package, and flags with the names of
// options of its balancer. Only what is given is passed on: the original does not know every option.

const { parseArgs } = require('node:util')
const { PORT } = require('./environment')
const { startWorkers } = require('./workers')

const {
  positionals: [name],
  values: { sessions, ...options },
} = parseArgs({
  allowPositionals: true,
  options: { behindProxy: { type: 'boolean' }, sessions: { type: 'boolean' }, steering: { type: 'string' } },
})
const affinity = sessions ? { affinity: { query: 'sid', cookie: 'sticky' } } : {}
const sticky = require(name)
const workers = startWorkers('sticky-worker.js', [name])
sticky.createBalancer({ activeWorkers: () => workers, ...options, ...affinity }).listen(PORT)
