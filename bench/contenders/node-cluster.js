'use strict'

// No stickiness: Node's own cluster, round-robin, every worker on the shared socket, or on a socket of its
// own. Argument: which.

const cluster = require('node:cluster')
const { startWorkers } = require('./workers')

const [policy] = process.argv.slice(2)
cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE
startWorkers('plain-worker.js', policy === 'reuseport' ? ['--reuseport'] : [])
