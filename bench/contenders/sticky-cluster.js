'use strict'

const cluster = require('node:cluster')
const sticky = require('sticky-cluster')
const { announceCluster } = require('./announce')
const { PORT, WORKERS } = require('./environment')
const { createServer } = require('./server')

if (cluster.isPrimary) announceCluster()
sticky((serve) => serve(createServer()), { concurrency: WORKERS, port: PORT })
