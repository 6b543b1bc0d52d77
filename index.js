'use strict'

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
