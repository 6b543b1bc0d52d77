'use strict'

// No stickiness: Node's own cluster, round-robin or every worker on the shared socket. Argument: which.

const cluster = require('node:cluster')
const { startWorkers } = require('./workers')

cluster.schedulingPolicy = process.argv[2] === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR
startWorkers('plain-worker.js')
