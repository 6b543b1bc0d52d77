'use strict'

// Looks, for a balancer whose clients a proxy names, whether it names any: otherwise all connections are closed, or all
// reach one worker, and nothing has failed.

const warnings = require('../warnings')

/**
 * @typedef {object} Counters
 * @property {number} delivered
 * @property {number} refused
 * @property {number} rejected
 * @property {number} waiting
 * @property {{ channel: number, adopted: number }[]} slots
 */

// When so many connections lack the PROXY header and none has had it, all do.
const ENOUGH_REJECTED = 100

// When so many connections have gone to one slot and none to another, that is no chance.
const ENOUGH_IN_ONE_SLOT = 1000

class ProxyAdvice {
  #options
  #missesHeader
  #missesClients
  /** @type {number[]} the connections that each slot had when their number changed last */
  #before = []

  /** @param {Pick<import('../options').Options, 'affinity' | 'behindProxy' | 'cipHeader' | 'proxyProtocol'>} options */
  constructor(options) {
    const { affinity, behindProxy, proxyProtocol } = options
    this.#options = options
    this.#missesHeader = proxyProtocol
    // Where new clients go where there is room, they need no names.
    this.#missesClients = (behindProxy || proxyProtocol) && affinity?.fallback !== 'room'
  }

  /** @param {() => Counters} read the counters, if there is still something to find out */
  look(read) {
    if (this.#missesHeader) this.#missHeader(read())
    if (this.#missesClients) this.#missClients(read())
  }

  /** @param {Counters} counters */
  #missHeader({ delivered, refused, rejected, waiting }) {
    if (delivered > 0) {
      this.#missesHeader = false
    } else if (rejected >= ENOUGH_REJECTED && waiting === 0 && refused === 0) {
      this.#missesHeader = false
      warnings.noProxyHeader(rejected)
    }
  }

  /** @param {Counters} counters */
  #missClients({ slots }) {
    const served = slots.filter(({ channel }) => channel > 0)
    if (served.length < 2 || slots.length !== this.#before.length) {
      // With one slot all are in it; and clients move when there are more or fewer.
      this.#before = slots.map(({ adopted }) => adopted)
      return
    }
    const since = slots.map(({ adopted }, slot) => adopted - this.#before[slot])
    const [slot, ...others] = since.flatMap((count, slot) => (count > 0 ? [slot] : []))
    if (others.length > 0) {
      this.#missesClients = false
    } else if (since[slot] >= ENOUGH_IN_ONE_SLOT) {
      this.#missesClients = false
      const { behindProxy, cipHeader } = this.#options
      warnings.oneClient(since[slot], slot, slots.length, behindProxy ? cipHeader : undefined)
    }
  }
}

module.exports = { ProxyAdvice }
