'use strict'

// This package behind recluster, which reloads all workers every 1.5 s. Arguments: flags with the names of options.

const path = require('node:path')
const { parseArgs } = require('node:util')
// @ts-expect-error it has no types
const recluster = require('recluster')
const sticky = require('../..')
const { PORT, WORKERS } = require('./environment')
const { announce } = require('./announce')

const RELOAD_EVERY = 1500

const { values } = parseArgs({ options: { steering: { type: 'string' } } })
/** @type {import('../..').BalancerOptions} */
const options = { maxRetries: 200, retryDelay: 100, .../** @type {object} */ (values) }
const cluster = recluster(path.join(__dirname, 'sticky-worker.js'), {
  workers: WORKERS,
  readyWhen: 'ready',
  args: ['../..'],
  log: {},
})
cluster.run()
const balancer = sticky.createBalancer(cluster.activeWorkers, options)
balancer.listen(PORT, () => announce(process.pid, []))

let reloads = 0
setInterval(() => {
  reloads++
  cluster.reload()
}, RELOAD_EVERY).unref()
process.on('exit', () =>
  console.error(`${reloads} reloads, ${JSON.stringify({ ...balancer.stats(), slots: undefined })}`),
)
