'use strict'

const cluster = require('node:cluster')
// @ts-expect-error it has no types
const sticky = require('sticky-cluster')
const { announceCluster } = require('./announce')
const { PORT, WORKERS } = require('./environment')
const { createServer } = require('./server')

if (cluster.isPrimary) announceCluster()
sticky((/** @type {(server: object) => void} */ serve) => serve(createServer()), { concurrency: WORKERS, port: PORT })
