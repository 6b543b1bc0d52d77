'use strict'

// What completes a block of code that is not a whole program.

/** The worker of a block that shows only a primary process. */
const SERVER = `
const http = require('node:http')
const sticky = require('sticky-listen')

const server = http.createServer((req, res) => res.end(\`worker \${process.pid}\`))
sticky.listen(server)
process.send({ cmd: 'ready' })
`

/** The primary process of a block that shows only a worker. */
const CLUSTER = `
const cluster = require('node:cluster')
const path = require('node:path')
const sticky = require('sticky-listen')

cluster.setupPrimary({ exec: path.join(__dirname, 'server.js') })
cluster.on('fork', (worker) => worker.on('error', () => {}))
for (let n = 0; n < 2; n++) cluster.fork()
sticky.createBalancer().listen(8081)
`

/** Precedes a block `<!-- in: primary -->`. */
const PRIMARY = `
const cluster = require('node:cluster')
const path = require('node:path')
const sticky = require('sticky-listen')

const { createBalancer } = sticky

cluster.setupPrimary({ exec: path.join(__dirname, 'server.js') })
cluster.on('fork', (worker) => worker.on('error', () => {}))
const workers = [cluster.fork(), cluster.fork()]
const activeWorkers = () => workers
`

/** Follows PRIMARY and precedes a block `<!-- in: balancer -->`. */
const BALANCER = `
const balancer = createBalancer(activeWorkers)
balancer.listen(8081)
`

/** Precedes a block `<!-- in: worker -->`. */
const WORKER = `
const http = require('node:http')
const sticky = require('sticky-listen')

const server = http.createServer((req, res) => res.end(\`worker \${process.pid}\`))
`

/** Follows a block `<!-- in: worker -->`: the server listens, if the block has not seen to it. */
const WORKER_END = `
try {
  sticky.listen(server)
} catch (error) {
  if (!['ERR_STICKY_NAME_TAKEN', 'ERR_SERVER_ALREADY_LISTEN'].includes(error.code)) throw error
}
`

module.exports = { BALANCER, CLUSTER, PRIMARY, SERVER, WORKER, WORKER_END }
