'use strict'

// Who served which slot when, from what the primaries wrote down.

/**
 * @typedef {import('../log').Entry} Entry
 * @typedef {{ from: number, to: number, primary: number, pids: (number | null)[] }} Table
 */

class Timeline {
  /** @type {Table[]} in the order of their beginning */
  tables = []
  /** @type {Map<number, number[]>} for a number of slots, the slot of each client */
  #slotsOf = new Map()
  /** @type {string[]} what primaries say that contradicts what was said before */
  contradictions = []

  /** @param {Entry[]} entries in order */
  constructor(entries) {
    /** @type {number | undefined} the first one, until another takes over */
    let reigning
    /** @type {Map<number, (number | null)[]>} the last table of each primary */
    const latest = new Map()
    for (const { t, pid, what, ...fields } of entries) {
      if (what === 'slots') this.#learn(fields.count, fields.slotOf)
      if (what === 'table') latest.set(pid, fields.pids)
      else if (what !== 'takeover') continue
      if (what === 'takeover' || reigning === undefined) reigning = pid
      const pids = latest.get(pid)
      if (pid !== reigning || !pids) continue
      const last = this.tables.at(-1)
      if (last) last.to = t
      this.tables.push({ from: t, to: Infinity, primary: pid, pids })
    }
  }

  /**
   * @param {number} count
   * @param {number[]} slotOf
   */
  #learn(count, slotOf) {
    const known = this.#slotsOf.get(count)
    if (!known) this.#slotsOf.set(count, slotOf)
    else if (known.some((slot, n) => slot !== slotOf[n])) {
      this.contradictions.push(`with ${count} slots clients are in ${slotOf}, and were in ${known}`)
    }
  }

  /**
   * A primary was killed: nobody serves until another one does.
   * @param {number} primary
   * @param {number} at
   */
  end(primary, at) {
    const n = this.tables.findLastIndex((table) => table.primary === primary && table.from <= at)
    const last = this.tables[n]
    if (!last) return
    const pids = last.pids.map(() => null)
    this.tables.splice(n + 1, 0, { from: at, to: last.to, primary, pids })
    last.to = at
  }

  /**
   * The slot of a client when there are so many, if that was told.
   * @param {number} client
   * @param {number} count
   */
  slotOf(client, count) {
    return this.#slotsOf.get(count)?.[client]
  }

  /**
   * The tables that were in force within a time.
   * @param {number} from
   * @param {number} to
   */
  within(from, to) {
    return this.tables.filter((table) => table.from <= to && table.to >= from)
  }

  /**
   * For how long, within a time, a client's slot had no worker, whichever slot that was by then: since the worker before was
   * killed, though that is noticed later.
   * @param {(count: number) => number[]} slotsAmong the slots that may be the client's when there are so many
   * @param {number} from
   * @param {number} to
   * @param {(pid: number) => number | undefined} killedAt
   */
  emptyFor(slotsAmong, from, to, killedAt) {
    let sum = 0
    for (const table of this.within(from, to)) {
      const since = slotsAmong(table.pids.length).map((slot) => {
        const pid = table.pids[slot] ?? null
        return pid === null ? table.from : (killedAt(pid) ?? Infinity)
      })
      const begin = Math.max(table.from, from, Math.min(...(since.length > 0 ? since : [table.from])))
      sum += Math.max(0, Math.min(table.to, to) - begin)
    }
    return sum
  }
}

module.exports = { Timeline }
