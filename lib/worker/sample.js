'use strict'

// Looks at few of a worker's connections, so that it costs the others nothing: how long they have waited, and whether all
// come from one address, to which a sticky balancer is no use.

const native = require('../../native')
const warnings = require('../warnings')

// One in so many connections is looked at.
const INTERVAL = 64

// When so many come from one address and none from another, that is all there is.
const ENOUGH = 32

/** Chooses the first connection, and then every 64th. */
class Sampler {
  #untilNext = 1
  #weight = 1

  /** Counts a connection; returns for how many it stands, 0 if it is not to be looked at. */
  next() {
    if (--this.#untilNext > 0) return 0
    const weight = this.#weight
    this.#untilNext = INTERVAL
    this.#weight = INTERVAL
    return weight
  }
}

/** Watches where the connections of a balancer come from. */
class AddressWatch {
  #sampler = new Sampler()
  /** @type {string | undefined} */
  #address
  #seen = 0
  #over = false

  /**
   * @param {any} client
   * @param {{ slotsByAddress: number }} balancer
   */
  look(client, balancer) {
    if (this.#over || this.#sampler.next() === 0 || balancer.slotsByAddress < 2) return
    const { address } = peerOf(client)
    this.#address ??= address
    if (address === undefined || address !== this.#address) {
      this.#over = true
    } else if (++this.#seen === ENOUGH) {
      this.#over = true
      warnings.oneAddress(address, balancer.slotsByAddress)
    }
  }
}

/** Counts how long connections have waited that this worker accepts itself. */
class WaitCounter {
  #sampler = new Sampler()
  #counters

  /** @param {Float64Array} counters of the balancer */
  constructor(counters) {
    this.#counters = counters
  }

  /** @param {any} client just accepted */
  count(client) {
    const weight = this.#sampler.next()
    const waited = weight > 0 ? native.waited(client.fd) : null
    if (!waited) return
    this.#counters[waited.counter] += weight
    this.#counters[native.WAITED] += waited.milliseconds * weight
  }
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

module.exports = { AddressWatch, WaitCounter, peerOf }
