'use strict'

// Which workers take connections and which slots they serve, as far as it was told: makes events of what has changed.

const { tell } = require('./events')

/**
 * @typedef {InstanceType<typeof import('./workers').Member>} Member
 * @typedef {{ channel: number, member: Member }} Serving
 * @typedef {import('../..').EndReason} EndReason
 */

class WorkerEvents {
  #balancer
  /** @type {Map<number, Member>} by the number of its channel */
  #up = new Map()
  /** @type {(Serving | null)[]} by slot */
  #serving = []
  #over = false

  /** @param {import('node:events').EventEmitter} balancer */
  constructor(balancer) {
    this.#balancer = balancer
  }

  /** @param {Serving} worker which takes connections on this channel from now on */
  up({ channel, member }) {
    if (this.#over || this.#up.has(channel)) return
    this.#up.set(channel, member)
    this.#tellWorker(member, true, 'listening')
  }

  /**
   * A channel has ended.
   * @param {number} channel
   * @param {EndReason} reason
   */
  down(channel, reason) {
    const member = this.#up.get(channel)
    if (member) this.#tellWorker(member, false, reason)
    this.#up.delete(channel)
  }

  /**
   * Follows who serves the slots.
   * @param {(Serving | null)[]} serving
   * @param {EndReason | 'replaced'} reason why a slot may have lost its worker
   */
  follow(serving, reason) {
    if (this.#over) return
    // A worker is up before it has a slot.
    for (const worker of serving) if (worker) this.up(worker)
    const before = this.#serving
    this.#serving = serving
    for (let slot = 0; slot < Math.max(before.length, serving.length); slot++) {
      const [old, now] = [before[slot], serving[slot]]
      if (old?.channel === now?.channel) continue
      if (old) {
        // The manager may know of its end before the channel does.
        const ended = old.member.connected ? reason : 'closed'
        this.#tellSlot(slot, old.member, false, ended === 'replaced' && !now ? 'removed' : ended)
      }
      if (now) this.#tellSlot(slot, now.member, true, 'listening')
    }
  }

  /** The balancer closes. Whoever listens again at once is not to hear of these workers after those of then. */
  end() {
    for (const [slot, worker] of this.#serving.entries()) {
      if (worker) this.#tellSlot(slot, worker.member, false, 'removed')
    }
    for (const channel of [...this.#up.keys()]) this.down(channel, 'closed')
    this.#over = true
  }

  /**
   * @param {Member} member
   * @param {boolean} up
   * @param {import('../..').WorkerEvent['reason']} reason
   */
  #tellWorker({ pid = 0 }, up, reason) {
    tell(this.#balancer, 'worker', { pid, up, reason })
  }

  /**
   * @param {number} slot
   * @param {Member} member
   * @param {boolean} up
   * @param {import('../..').SlotEvent['reason']} reason
   */
  #tellSlot(slot, { pid = 0 }, up, reason) {
    tell(this.#balancer, 'slot', { slot, pid, up, reason })
  }
}

module.exports = { WorkerEvents }
