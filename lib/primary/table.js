'use strict'

// The manager's table of workers, read with distrust: it is the user's function, it may throw, and
// what it returns may be anything and change while it is read.

const { workers } = require('./workers')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */

// Far beyond any machine; a length over it is a mistake, and would only cost memory.
const MAX_SLOTS = 65536

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
  return Array.from({ length }, (_, slot) => usable(workers().member(returned[slot])))
}

/**
 * A worker that cannot be reached any more is as good as none.
 * @param {Member | undefined} member
 */
function usable(member) {
  return member?.connected ? member : null
}

module.exports = { readTable }
