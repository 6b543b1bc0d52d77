'use strict'

// Connections that were refused, told in batches: a storm of refusals must not become one of events or warnings.

const warnings = require('../warnings')

/** @typedef {import('../..').RefuseEvent} RefuseEvent */

// Between two batches, in milliseconds.
const BATCH_INTERVAL = 1000

// Between two warnings about the same slot and status, in milliseconds.
const WARNING_INTERVAL = 60_000

class Refusals {
  #take
  #reason
  #tell
  /** @type {NodeJS.Timeout | undefined} until the next batch may be told */
  #batch
  #more = false
  /** @type {Map<string, { count: number, last: RefuseEvent, timer: NodeJS.Timeout }>} not warned of yet, by slot and status */
  #quiet = new Map()

  /**
   * @param {() => { slot?: number, status?: number, draining: boolean, count: number }[]} take returns what was refused since
   *   the last time
   * @param {(slot: number | null, status: RefuseEvent['status']) => string} reason says why
   * @param {(event: RefuseEvent) => void} tell
   */
  constructor(take, reason, tell) {
    this.#take = take
    this.#reason = reason
    this.#tell = tell
  }

  /** There is something to take. */
  announce() {
    this.#more = true
    if (!this.#batch) this.#flush()
  }

  /** Nothing more is refused. */
  end() {
    clearTimeout(this.#batch)
    // Some may not have been announced yet.
    this.#more = true
    this.#flush()
    clearTimeout(this.#batch)
    for (const [key, { timer }] of this.#quiet) {
      this.#speakAgain(key)
      clearInterval(timer)
    }
    this.#quiet.clear()
  }

  #flush() {
    this.#batch = undefined
    if (!this.#more) return
    this.#more = false
    this.#batch = setTimeout(() => this.#flush(), BATCH_INTERVAL).unref()
    for (const { slot = null, status = null, draining, count } of this.#take()) {
      const event = { slot, status: /** @type {RefuseEvent['status']} */ (status), count }
      const told = { ...event, reason: draining ? 'the balancer drains' : this.#reason(slot, event.status) }
      this.#tell(told)
      // What the program asked for is no reason to warn it.
      if (!draining) this.#warn(told)
    }
  }

  /** @param {RefuseEvent} event */
  #warn(event) {
    const key = `${event.slot} ${event.status}`
    const quiet = this.#quiet.get(key)
    if (quiet) {
      quiet.count += event.count
      quiet.last = event
      return
    }
    this.#speak(event)
    const timer = setInterval(() => this.#speakAgain(key), WARNING_INTERVAL).unref()
    this.#quiet.set(key, { count: 0, last: event, timer })
  }

  /** @param {string} key */
  #speakAgain(key) {
    const quiet = this.#quiet.get(key)
    if (!quiet) return
    if (quiet.count > 0) {
      this.#speak({ ...quiet.last, count: quiet.count })
      quiet.count = 0
    } else {
      clearInterval(quiet.timer)
      this.#quiet.delete(key)
    }
  }

  /** @param {RefuseEvent} event */
  #speak({ slot, status, reason, count }) {
    if (status === null) warnings.outOfDescriptors(count)
    else warnings.refused(slot, status, count, reason)
  }
}

module.exports = { Refusals }
