'use strict'

// How many connections a server has open, written where balancers read it that send new clients where there is room.

const native = require('../../native')

class OpenConnections {
  #server
  #count = 0
  /** @type {Set<Float64Array>} */
  #counters = new Set()

  /** @param {any} server a `net.Server` */
  constructor(server) {
    this.#server = server
  }

  /**
   * Tells from now on.
   * @param {Float64Array} counters of a balancer
   */
  tell(counters) {
    if (this.#counters.size === 0) this.#watch()
    this.#counters.add(counters)
    counters[native.OPEN] = this.#count
  }

  /** @param {Float64Array} [counters] */
  stopTelling(counters) {
    if (!counters || !this.#counters.delete(counters) || this.#counters.size > 0) return
    Object.defineProperty(this.#server, '_connections', {
      configurable: true,
      enumerable: true,
      value: this.#count,
      writable: true,
    })
  }

  /** Node counts in a property of the server: one more for each connection that it gets, one less for each that ends. */
  #watch() {
    this.#count = this.#server._connections
    Object.defineProperty(this.#server, '_connections', {
      configurable: true,
      enumerable: true,
      get: () => this.#count,
      set: (count) => {
        this.#count = count
        for (const counters of this.#counters) counters[native.OPEN] = count
      },
    })
  }
}

module.exports = { OpenConnections }
