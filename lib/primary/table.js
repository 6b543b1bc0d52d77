'use strict'

// The manager's table of workers, read with distrust: it is the user's function, it may throw, and
// what it returns may be anything and change while it is read.

const { ChildProcess } = require('node:child_process')
const warnings = require('../warnings')
const { workers } = require('./workers')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */

// Far beyond any machine; a length over it is a mistake, and would only cost memory.
const MAX_SLOTS = 65536

/**
 * The functions that have returned what is no worker, which is said once.
 * @type {WeakSet<import('../..').ActiveWorkers>}
 */
const warned = new WeakSet()

/**
 * @param {import('../..').ActiveWorkers} activeWorkers
 * @returns {(Member | null)[]} for each slot its worker, or null
 * @throws what `activeWorkers` throws, or a `TypeError` when it returns no table
 */
function readTable(activeWorkers) {
  /** @type {any} */
  const returned = activeWorkers()
  // An async function returns no table. What it throws must not end the process either.
  if (returned instanceof Promise) returned.catch(() => {})
  // A string and a function have a length as well, but no workers: the manager's function itself, say,
  // returned instead of called, would otherwise be a table without slots.
  const length = typeof returned === 'object' ? returned?.length : undefined
  if (typeof length !== 'number' || !Number.isInteger(length) || length < 0 || length > MAX_SLOTS) {
    throw new TypeError(`activeWorkers() must return an array of workers, its length 0 to ${MAX_SLOTS}`)
  }
  return Array.from({ length }, (_, slot) => {
    const worker = returned[slot]
    const member = workers().member(worker)
    if (!member && !isNone(worker) && !warned.has(activeWorkers)) {
      warned.add(activeWorkers)
      warnings.noProcess(slot, worker)
    }
    return usable(member)
  })
}

/**
 * Whether a manager may mean by it that a slot is empty: a process that could not be started has no channel either.
 * @param {any} worker
 */
function isNone(worker) {
  if (worker === null || worker === undefined) return true
  const child = worker.process ?? worker
  return child instanceof ChildProcess && child.pid === undefined
}

/**
 * A worker that cannot be reached any more is as good as none.
 * @param {Member | undefined} member
 */
function usable(member) {
  return member?.connected ? member : null
}

module.exports = { readTable }
