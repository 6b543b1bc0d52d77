'use strict'

// The balancer of the primary process: a `net.Server` whose connections are accepted and handed to
// workers by native code. No connection is ever seen here.

const net = require('node:net')
const { balancerOptions } = require('../options')
const { ClusterSlots } = require('./cluster-slots')
const { takeOver } = require('./listening-handle')
const { Session } = require('./session')

/** @typedef {InstanceType<typeof Session>} BalancerSession */

const NO_STATS = {
  accepted: 0,
  delivered: 0,
  adopted: 0,
  redelivered: 0,
  refused: 0,
  rejected: 0,
  gone: 0,
  identifying: 0,
  waiting: 0,
}

class Balancer extends net.Server {
  /** @type {BalancerSession | undefined} of the latest listen() */
  #session
  /** @type {Set<BalancerSession>} those whose counters may still change */
  #sessions = new Set()
  /** What the others counted. */
  #past = NO_STATS

  /**
   * @param {unknown} [activeWorkers]
   * @param {unknown} [options]
   */
  constructor(activeWorkers, options) {
    const checked = balancerOptions(activeWorkers, options)
    super()
    const table = checked.activeWorkers ?? clusterTable(checked.name)
    const begin = () => {
      const session = new Session(this, checked, table, () => {
        this.#sessions.delete(session)
        this.#past = sum(this.#past, session.stats())
      })
      this.#session = session
      this.#sessions.add(session)
      return session
    }
    /** @type {any} */
    let handle = null
    // Whatever handle Node makes for a listen(), of any form, is taken over as it is set.
    Object.defineProperty(this, '_handle', {
      configurable: true,
      enumerable: true,
      get: () => handle,
      set: (made) => {
        handle = made
        if (made) takeOver(made, begin)
      },
    })
  }

  /** @returns {import('../..').BalancerStats} */
  stats() {
    const counters = [...this.#sessions].map((session) => session.stats()).reduce(sum, this.#past)
    return { ...counters, slots: this.#session?.stats().slots ?? [] }
  }
}

/** @param {string} name */
function clusterTable(name) {
  const slots = new ClusterSlots(name)
  return () => slots.activeWorkers()
}

/**
 * @param {typeof NO_STATS} a
 * @param {typeof NO_STATS} b
 */
function sum(a, b) {
  const total = { ...a }
  for (const counter of /** @type {(keyof typeof NO_STATS)[]} */ (Object.keys(a))) total[counter] += b[counter]
  return total
}

module.exports = { Balancer }
