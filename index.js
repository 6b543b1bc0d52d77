'use strict'

// First: where this fails, it says why, before anything that an old Node may lack.
require('./native')

const { Balancer } = require('./lib/primary/balancer')
const { proxyAddress } = require('./lib/worker/adopted')
const { listen } = require('./lib/worker/listen')

/**
 * @param {import('.').ActiveWorkers | import('.').BalancerOptions} [activeWorkers]
 * @param {import('.').BalancerOptions} [options]
 */
function createBalancer(activeWorkers, options) {
  return new Balancer(activeWorkers, options)
}

module.exports = { Balancer, createBalancer, listen, proxyAddress }
