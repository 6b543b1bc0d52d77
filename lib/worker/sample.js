'use strict'

// Looks at few of a worker's connections, so that it costs the others nothing: how long they have waited, and whether all
// come from one address, to which a sticky balancer is no use.

const native = require('../../native')
const warnings = require('../warnings')

// One in so many connections is looked at.
const INTERVAL = 64

// When so many in a row come from one address, that is all there is.
const ENOUGH = 32

class Sample {
  #untilNext = 1
  #weight = 1
  #address = ''
  #same = 0
  #warned = false

  /** Counts a connection; returns whether it is to be looked at. */
  next() {
    return --this.#untilNext === 0
  }

  /**
   * Looks at a connection.
   * @param {any} client
   * @param {number} slots among which addresses tell clients apart
   * @returns {number} how many connections it stands for
   */
  take(client, slots) {
    const weight = this.#weight
    this.#untilNext = INTERVAL
    this.#weight = INTERVAL
    if (!this.#warned && slots > 1) this.#compare(client, slots)
    return weight
  }

  /**
   * @param {any} client
   * @param {number} slots
   */
  #compare(client, slots) {
    const { address } = peerOf(client)
    if (address === undefined) return
    this.#same = address === this.#address ? this.#same + 1 : 1
    this.#address = address
    if (this.#same < ENOUGH) return
    this.#warned = true
    warnings.oneAddress(address, slots)
  }
}

const BOUNDS = native.waitBounds()

/**
 * Counts how long a connection has waited, for itself and others.
 * @param {Float64Array} counters of its balancer
 * @param {any} client
 * @param {number} weight how many connections it stands for
 */
function countWait(counters, client, weight) {
  const waited = native.waited(client.fd)
  if (waited === null) return
  const above = BOUNDS.findIndex((bound) => waited <= bound)
  counters[native.WAITS + (above === -1 ? BOUNDS.length : above)] += weight
  counters[native.WAITS + BOUNDS.length + 1] += waited * weight
}

/**
 * @param {any} client
 * @returns {{ address?: string, port?: number, family?: string }}
 */
function peerOf(client) {
  const peer = {}
  client.getpeername?.(peer)
  return peer
}

module.exports = { Sample, countWait, peerOf }
