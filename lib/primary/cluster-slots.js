'use strict'

// The table for programs that have no manager with one of its own: the workers of `node:cluster` that
// called `listen`. A slot belongs to a worker until it goes; who comes next takes its place, so that
// a respawn moves nobody. Until then another worker stands in for it, beside its own slot, so that its
// clients are served and those of all others stay where they are. If nobody comes, the last slot's
// worker moves into its place, and the table shrinks.

const cluster = require('node:cluster')
const { workers } = require('./workers')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */

// How long the clients of a worker that is gone wait for its successor before another worker stands in, in milliseconds. A
// respawned process takes seconds to listen; sooner would move them twice on every crash.
const STAND_IN_AFTER = 10_000

// The same for a worker that was told to go, when no other is starting; long enough to fork one, and
// shorter than the default patience with an empty slot.
const STAND_IN_AFTER_LEAVE = 250

// How long the place of a process that has exited is kept, while nobody starts who may be its successor, and while
// somebody does.
const KEPT = 10_000
const KEPT_FOR_STARTING = 60_000

// For so long, in milliseconds, a worker that was forked when all others served already is taken for the successor of the
// next one that goes, and not for one of those that have been there all the time.
const SUCCESSOR_FOR = 60_000

/**
 * @typedef {object} Empty a slot without a worker of its own
 * @property {Member} gone
 * @property {boolean} left whether that was told to go
 * @property {number} since when it could not be reached any more
 * @property {number} [exited] when its process was found to have exited
 * @property {Member} [standIn]
 */

class ClusterSlots {
  #name
  #queried = false
  /** @type {(Member | undefined)[]} */
  #slots = []
  /** @type {Empty[]} of the slots that have none */
  #empty = []
  /** @type {WeakMap<Member, number>} when each worker was given a slot */
  #since = new WeakMap()
  /** @type {Member | undefined} for whom the table grew last, if all others served when it was forked */
  #successor

  /** @param {string} name of the servers that count */
  constructor(name) {
    this.#name = name
    // From now on they are heard who say that they listen, so that listen() may find a table that is complete.
    workers()
  }

  /** As the option `activeWorkers`. */
  activeWorkers() {
    // Not the time of day, which may be set.
    const now = performance.now()
    for (const [slot, holder] of this.#slots.entries()) {
      if (!holder || holder.connected) continue
      this.#slots[slot] = undefined
      this.#empty[slot] = { gone: holder, left: holder.isLeaving, since: now }
    }
    for (const worker of Object.values(cluster.workers ?? {})) this.#takeIn(workers().member(worker), now)
    // Those that were there before the first call may have said that they listen before anybody heard.
    this.#queried = true
    this.#shrink(now)
    return this.#slots.map((holder, slot) => (holder ?? this.#standIn(slot, now))?.child)
  }

  /**
   * Gives a worker a slot once it listens.
   * @param {Member | undefined} member
   * @param {number} now
   */
  #takeIn(member, now) {
    if (!member || this.#slots.includes(member)) return
    if (!this.#queried) workers().query(member)
    if (!member.listeners.has(this.#name)) return
    const free = this.#slots.findIndex((holder) => !holder || holder.isLeaving)
    this.#since.set(member, now)
    if (free !== -1) {
      this.#slots[free] = member
      return
    }
    const served = this.#slots.every((holder) => holder && (this.#since.get(holder) ?? now) < member.since)
    this.#successor = served && this.#slots.length > 0 ? member : undefined
    this.#slots.push(member)
  }

  /**
   * Whether a worker has been forked that may be about to listen, after another one.
   * @param {Member} gone
   */
  #awaitsAfter({ clusterWorker }) {
    const last = clusterWorker?.id ?? 0
    return Object.values(cluster.workers ?? {}).some((worker) => {
      const member = worker && worker.id > last ? workers().member(worker) : undefined
      return member?.connected && !member.isLeaving && !member.listeners.has(this.#name)
    })
  }

  /**
   * Who serves a slot that has no worker of its own, if somebody is to.
   * @param {number} slot
   * @param {number} now
   */
  #standIn(slot, now) {
    const empty = this.#empty[slot]
    const soon = empty.left && !this.#awaitsAfter(empty.gone)
    if (now - empty.since < (soon ? STAND_IN_AFTER_LEAVE : STAND_IN_AFTER)) return
    // The same for as long as it can.
    if (!empty.standIn?.connected) {
      const others = [...this.#slots.slice(slot + 1), ...this.#slots.slice(0, slot)]
      empty.standIn = others.find((holder) => holder && !holder.isLeaving)
    }
    return empty.standIn
  }

  /**
   * Whether nobody is going to have a slot any more.
   * @param {number} slot
   * @param {number} now
   */
  #isOver(slot, now) {
    const empty = this.#empty[slot]
    const { gone, left, since } = empty
    const awaits = this.#awaitsAfter(gone)
    const { exitCode, signalCode } = gone.child
    if (exitCode !== null || signalCode !== null) empty.exited ??= now
    const isLast = slot === this.#slots.length - 1
    const last = this.#slots[this.#slots.length - 1]
    const replaced = last && last === this.#successor && now - (this.#since.get(last) ?? 0) < SUCCESSOR_FOR
    // Without those of the last slot nobody else is moved; and who has come to replace it is to have its place.
    if (left && !awaits && (isLast || replaced)) return now - since >= STAND_IN_AFTER_LEAVE
    return empty.exited !== undefined && now - empty.exited >= (awaits ? KEPT_FOR_STARTING : KEPT)
  }

  /** @param {number} now */
  #shrink(now) {
    const slots = this.#slots
    for (let slot = slots.length - 1; slot >= 0; slot--) {
      if (slots[slot] || !this.#isOver(slot, now)) continue
      const last = slots.pop()
      this.#successor = undefined
      if (slot < slots.length) {
        slots[slot] = last
        this.#empty[slot] = this.#empty[slots.length]
      }
    }
  }
}

module.exports = { ClusterSlots }
