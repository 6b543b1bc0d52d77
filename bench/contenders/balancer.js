'use strict'

// sticky-listen, this or the original: the two calls are the same. Arguments: the package, and
// --behind-proxy.

const { PORT } = require('./environment')
const { startWorkers } = require('./workers')

const [name, flag] = process.argv.slice(2)
const sticky = require(name)
const workers = startWorkers('sticky-worker.js', [name])
const options = flag === '--behind-proxy' ? { behindProxy: true } : {}
sticky.createBalancer({ activeWorkers: () => workers, ...options }).listen(PORT)
