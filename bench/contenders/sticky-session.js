'use strict'

// @ts-expect-error it has no types
const sticky = require('sticky-session')
const { announceCluster } = require('./announce')
const { PORT, WORKERS } = require('./environment')
const { createServer } = require('./server')

const isWorker = sticky.listen(createServer(), PORT, { workers: WORKERS })
if (!isWorker) announceCluster()
