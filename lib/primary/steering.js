'use strict'

// Who brings connections to their workers: the kernel, where it can, or the primary process, which hands them over.

const cluster = require('node:cluster')
const native = require('../../native')

// Node's flag for the option `reusePort` of listen().
const REUSE_PORT = 2

// Node's number for a path instead of an address.
const PATH = -1

const CLUSTER_WORKER = 'this process is a worker of node:cluster, whose primary listens in its place'

/**
 * Why the kernel cannot steer a balancer's connections, wherever it listens; `undefined` if it can.
 * @param {import('../options').Options} options
 */
function obstacleIn({ affinity, behindProxy, proxyProtocol }) {
  if (affinity) return 'with affinity a request within the connection shows the session'
  if (behindProxy) return 'with behindProxy a header within the connection names the client'
  if (proxyProtocol) return 'with proxyProtocol the connection begins with what names the client'
  if (cluster.isWorker) return CLUSTER_WORKER
  return native.steeringObstacle() ?? undefined
}

/**
 * Why the kernel cannot steer the connections of this listen(); `undefined` if it can.
 * @param {unknown} handle given by the user
 * @param {number} addressType
 * @param {unknown} fd
 * @param {number} [flags]
 */
function obstacleTo(handle, addressType, fd, flags = 0) {
  if (handle) return 'a handle that was given may be shared with other processes'
  if (typeof fd === 'number' && fd >= 0) return 'a descriptor that was given may be shared with other processes'
  if (addressType === PATH) return 'clients at a path have no addresses'
  if (flags & REUSE_PORT) return 'with reusePort other programs share the address'
}

/**
 * Why nobody can take over what this listen() makes; `undefined` if somebody can.
 * @param {unknown} handle given by the user
 * @param {number} addressType
 * @param {unknown} fd
 */
function obstacleToTakeOver(handle, addressType, fd) {
  if (cluster.isWorker) return CLUSTER_WORKER
  if (handle || typeof fd === 'number' || addressType === PATH) return 'listen() has to be given a port'
}

module.exports = { PATH, obstacleIn, obstacleTo, obstacleToTakeOver }
