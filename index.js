'use strict'

// First: where this fails, it says why, before anything that an old Node may lack.
require('./native')

const { Balancer } = require('./lib/primary/balancer')
const { proxyAddress } = require('./lib/worker/adopted')
const { listen } = require('./lib/worker/listen')
const { generateId, token } = require('./lib/worker/token')

/**
 * @param {import('.').ActiveWorkers | import('.').BalancerOptions} [activeWorkers]
 * @param {import('.').BalancerOptions} [options]
 */
function createBalancer(activeWorkers, options) {
  return new Balancer(activeWorkers, options)
}

module.exports = { Balancer, createBalancer, generateId, listen, proxyAddress, token }
