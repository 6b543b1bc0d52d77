'use strict'

// Looks for what is wrong with a balancer's workers though nothing has failed, and says so once.

const cluster = require('node:cluster')
const warnings = require('../warnings')
const { ProxyAdvice } = require('./proxy-advice')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */
/** @typedef {import('../../native').Stats} Counters */

// How long a balancer may be without any worker, in milliseconds, while nobody waits for one and while somebody does.
const NO_WORKERS_AFTER = 10_000
const NO_WORKERS_IN_NEED_AFTER = 3000

// How long a worker may be in the table before it listens, in milliseconds.
const NOT_LISTENING_AFTER = 3000

class Advice {
  #name
  #ownTable
  #began = performance.now()
  /** Whether there has been a worker, or that there is none has been said. */
  #settled = false
  /** @type {WeakMap<Member, number>} when it was first in the table, until something was said of it */
  #seen = new WeakMap()
  /** @type {string | undefined} */
  #path
  #proxy

  /**
   * @param {import('../options').Options} options
   * @param {string | undefined} path at which the balancer listens, if clients there are not told apart
   */
  constructor(options, path) {
    this.#name = options.name
    this.#ownTable = options.activeWorkers !== undefined
    this.#proxy = new ProxyAdvice(options)
    this.#path = path
  }

  /**
   * The table was read.
   * @param {(Member | null)[]} members
   * @param {() => Counters} read
   */
  look(members, read) {
    const now = performance.now()
    /** @type {Counters | undefined} */
    let counters
    const stats = () => {
      counters ??= read()
      return counters
    }
    if (!this.#settled) this.#missWorkers(members, stats, now)
    for (const [slot, member] of members.entries()) {
      if (member) this.#missListener(member, slot, stats, now)
    }
    this.#proxy.look(stats)
    if (this.#path !== undefined && members.length > 1) {
      warnings.pathWithoutAddresses(this.#path)
      this.#path = undefined
    }
  }

  /**
   * @param {(Member | null)[]} members
   * @param {() => Counters} stats
   * @param {number} now
   */
  #missWorkers(members, stats, now) {
    const since = now - this.#began
    if (members.some(Boolean)) {
      this.#settled = true
    } else if (since >= NO_WORKERS_AFTER || (since >= NO_WORKERS_IN_NEED_AFTER && stats().waiting > 0)) {
      this.#settled = true
      const clustered = Object.values(cluster.workers ?? {}).map((worker) => worker?.process.pid ?? 0)
      warnings.noWorkers(since, this.#name, this.#ownTable ? undefined : clustered)
    }
  }

  /**
   * @param {Member} member
   * @param {number} slot
   * @param {() => Counters} stats
   * @param {number} now
   */
  #missListener(member, slot, stats, now) {
    const seen = this.#seen.get(member)
    // Once it has listened it knows how to. That it speaks another version has been said.
    if (member.listeners.has(this.#name) || member.foreign) {
      this.#seen.set(member, Infinity)
    } else if (seen === undefined) {
      this.#seen.set(member, now)
    } else if (now - seen >= NOT_LISTENING_AFTER && isInNeed(stats().slots[slot])) {
      this.#seen.set(member, Infinity)
      warnings.notListening(member.pid ?? 0, slot, now - seen, this.#name)
    }
  }
}

/**
 * Whether clients wait in a slot that no other worker serves meanwhile.
 * @param {Counters['slots'][number] | undefined} slot
 */
function isInNeed(slot) {
  return slot !== undefined && slot.waiting > 0 && slot.channel === 0
}

module.exports = { Advice }
