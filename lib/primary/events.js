'use strict'

// What a balancer tells of: events of its own, and the same on diagnostics channels for whoever has no balancer at hand.
// Nobody pays for what nobody listens to.

const { channel } = require('node:diagnostics_channel')

/**
 * @typedef {import('../..').SlotEvent} SlotEvent
 * @typedef {import('../..').WorkerEvent} WorkerEvent
 * @typedef {import('../..').RefuseEvent} RefuseEvent
 */

const CHANNELS = {
  slot: channel('sticky-listen:slot'),
  worker: channel('sticky-listen:worker'),
  refuse: channel('sticky-listen:refuse'),
}

/**
 * Emits an event in a turn of its own: what a listener throws is the program's, and must not stop the balancer in the
 * middle of its work.
 * @param {import('node:events').EventEmitter} balancer
 * @param {'slot' | 'worker' | 'refuse'} kind
 * @param {SlotEvent | WorkerEvent | RefuseEvent} event
 */
function tell(balancer, kind, event) {
  const diagnostics = CHANNELS[kind]
  if (balancer.listenerCount(kind) === 0 && !diagnostics.hasSubscribers) return
  process.nextTick(() => {
    diagnostics.publish({ balancer, ...event })
    balancer.emit(kind, event)
  })
}

module.exports = { tell }
