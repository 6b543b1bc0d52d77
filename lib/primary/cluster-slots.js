'use strict'

// The table for programs that have no manager with one of its own: the workers of `node:cluster` that
// called `listen`. A slot belongs to a worker until it goes; who comes next takes its place, so that
// a respawn moves nobody. When a worker that was told to go is gone and none is starting, the last
// slot's worker moves into its place: its successor, if that came before it went.

const cluster = require('node:cluster')
const { workers } = require('./workers')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */

// How long the place of a worker that is gone waits for a successor before the last worker moves into it
// and the table shrinks, in milliseconds. A respawned process takes seconds to listen; sooner would move
// clients of healthy workers on every crash.
const SHRINK_AFTER = 10_000

// The same for a worker that was told to go, when no other is starting; long enough to fork one, and
// shorter than the default patience with an empty slot.
const SHRINK_AFTER_LEAVE = 250

class ClusterSlots {
  #name
  #queried = false
  /** @type {(Member | undefined)[]} */
  #slots = []
  /** @type {{ since: number, left: boolean }[]} when the slot lost its worker, and whether that was told to go */
  #empty = []

  /** @param {string} name of the servers that count */
  constructor(name) {
    this.#name = name
  }

  /** As the option `activeWorkers`. */
  activeWorkers() {
    // Not the time of day, which may be set.
    const now = performance.now()
    for (const [slot, holder] of this.#slots.entries()) {
      if (!holder || holder.connected) continue
      this.#slots[slot] = undefined
      this.#empty[slot] = { since: now, left: holder.isLeaving }
    }
    for (const worker of Object.values(cluster.workers ?? {})) this.#takeIn(workers().member(worker))
    // Those that were there before the first call may have said that they listen before anybody heard.
    this.#queried = true
    this.#shrink(now)
    return this.#slots.map((holder) => holder?.child)
  }

  /**
   * Gives a worker a slot once it listens.
   * @param {Member | undefined} member
   */
  #takeIn(member) {
    if (!member || this.#slots.includes(member)) return
    if (!this.#queried) workers().query(member)
    if (!member.listeners.has(this.#name)) return
    const free = this.#slots.findIndex((holder) => !holder || holder.isLeaving)
    this.#slots[free === -1 ? this.#slots.length : free] = member
  }

  /** Whether a worker has been forked that may be about to listen. */
  #awaitsWorker() {
    return Object.values(cluster.workers ?? {}).some((worker) => {
      const member = worker && workers().member(worker)
      return member?.connected && !member.isLeaving && !member.listeners.has(this.#name)
    })
  }

  /** @param {number} now */
  #shrink(now) {
    const slots = this.#slots
    for (let slot = slots.length - 1; slot >= 0; slot--) {
      if (slots[slot]) continue
      const { since, left } = this.#empty[slot]
      if (now - since < (left && !this.#awaitsWorker() ? SHRINK_AFTER_LEAVE : SHRINK_AFTER)) continue
      const last = slots.pop()
      if (slot < slots.length) {
        slots[slot] = last
        this.#empty[slot] = this.#empty[slots.length]
      }
    }
  }
}

module.exports = { ClusterSlots }
