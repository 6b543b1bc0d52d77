'use strict'

// What is known of a connection that came from a balancer, beside what its handle knows.

const { checkSocket } = require('../checks')

const BALANCER = Symbol('sticky-listen balancer')
const SLOT = Symbol('sticky-listen slot')
const PROXY = Symbol('sticky-listen proxy')

/** @typedef {InstanceType<typeof import('./balancer-info').BalancerInfo>} BalancerInfo */

/**
 * Marks a handle with where it came from: nothing for the first balancer of its server, unless that tells sessions apart,
 * as marking costs a microsecond, and most have no other. Behind a proxy that said where the connection comes from, that is
 * the peer to everybody who asks the handle, on whatever socket is put on it.
 * @param {any} handle
 * @param {BalancerInfo | undefined} balancer
 * @param {number} slot
 * @param {import('../../native').Source | null | undefined} [source]
 */
function mark(handle, balancer, slot, source) {
  if (balancer) {
    handle[BALANCER] = balancer
    handle[SLOT] = slot
  }
  if (!source) return
  const { getpeername } = handle
  handle[PROXY] = () => {
    const proxy = {}
    getpeername?.call(handle, proxy)
    return proxy
  }
  handle.getpeername = (/** @type {object} */ out) => {
    Object.assign(out, source)
    return 0
  }
}

/**
 * The handle of a connection, beneath that of TLS.
 * @param {any} socket
 */
function handleOf(socket) {
  let handle = socket?._handle
  while (handle?._parent) handle = handle._parent
  return handle
}

/**
 * The balancer that a connection came from; nothing for its server's first one.
 * @param {any} socket
 * @returns {BalancerInfo | undefined}
 */
const balancerOf = (socket) => handleOf(socket)?.[BALANCER]

/**
 * The token of the slot that a connection came by, if its balancer tells sessions apart.
 * @param {any} socket
 * @returns {string | undefined}
 */
function tokenOf(socket) {
  const handle = handleOf(socket)
  return handle?.[BALANCER]?.token(handle[SLOT])
}

/**
 * The address of the proxy that speaks for the client of a connection.
 * @param {unknown} socket or a request
 * @returns {import('../..').ProxyAddress | undefined}
 */
const proxyAddress = (socket) => handleOf(checkSocket(socket, 'socket'))?.[PROXY]?.()

module.exports = { balancerOf, mark, proxyAddress, tokenOf }
