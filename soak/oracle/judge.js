'use strict'

// Decides what of a history must not have happened, from what its clients, its workers and its primaries wrote down and
// from the faults that it had. Pure, so that it can be tested itself.

const { Timeline } = require('./timeline')

/**
 * @typedef {import('../log').Entry} Entry
 * @typedef {import('../load/load').Exchange} Exchange
 */

/**
 * Something that was done to a process, from when until when.
 * @typedef {{ kind: string, from: number, to: number, pid?: number, count?: number }} Fault
 */

/**
 * @typedef {object} Evidence
 * @property {import('../history').Configuration} configuration
 * @property {boolean} kernel whether the kernel steers
 * @property {string[]} clients
 * @property {Exchange[]} exchanges
 * @property {Entry[]} entries in order
 * @property {Fault[]} faults
 * @property {Map<string, number>} tokens the slots that they name
 * @property {{ at: number, text: string }[]} troubles what was seen from outside
 * @property {string} said what all processes wrote to stderr
 */

/**
 * @typedef {object} Violation
 * @property {string} rule
 * @property {string} text
 * @property {number} at
 * @property {Exchange} [exchange]
 */

/**
 * @typedef {object} Verdict
 * @property {Violation[]} violations
 * @property {{ [outcome: string]: number }} outcomes how many requests ended how
 */

// What one process does and another writes down is not at the same moment, on a machine that is busy as it is meant to be.
const SLACK = 3000

// The clock of patience has steps.
const PATIENCE_SLACK = 50

/**
 * @param {Evidence} evidence
 * @returns {Verdict}
 */
function judge(evidence) {
  const judging = new Judging(evidence)
  for (const exchange of evidence.exchanges) judging.exchange(exchange)
  judging.processes()
  return { violations: judging.violations.sort((a, b) => a.at - b.at), outcomes: judging.outcomes }
}

class Judging {
  /** @type {Violation[]} */
  violations = []
  /** @type {{ [outcome: string]: number }} */
  outcomes = {}
  #evidence
  #timeline
  #patience
  /** @type {Map<string, Entry[]>} the adoptions of each connection */
  #adoptions
  /** @type {Map<string, Entry[]>} the answers to each request */
  #answers
  /** @type {Map<number, number>} when a process was killed */
  #killed = new Map()
  /** @type {Set<number>} the kills that have cost the connection which they may */
  #spent = new Set()
  #clientNumbers

  /** @param {Evidence} evidence */
  constructor(evidence) {
    this.#evidence = evidence
    this.#timeline = new Timeline(evidence.entries)
    const { maxRetries = 5, retryDelay = 150 } = evidence.configuration.options
    this.#patience = maxRetries * retryDelay
    this.#adoptions = grouped(evidence.entries, 'adopted', 'key')
    this.#answers = grouped(evidence.entries, 'answered', 'id')
    this.#clientNumbers = new Map(evidence.clients.map((client, n) => [client, n]))
    for (const { kind, pid, from } of evidence.faults) {
      if (kind === 'kill' && pid !== undefined) this.#killed.set(pid, from)
      if (kind === 'orphan' && pid !== undefined) this.#timeline.end(pid, from)
    }
  }

  /**
   * @param {string} rule
   * @param {number} at
   * @param {string} text
   * @param {Exchange} [exchange]
   */
  #violated(rule, at, text, exchange) {
    this.violations.push({ rule, at, text, exchange })
    return 'violation'
  }

  /** @param {Exchange} exchange */
  exchange(exchange) {
    const outcome = this.#outcomeOf(exchange)
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1
  }

  /** @param {Exchange} exchange */
  #outcomeOf(exchange) {
    const { id, status, error, ended } = exchange
    const answers = this.#answers.get(id) ?? []
    if (answers.length > 1) {
      const text = `workers ${answers.map(({ pid }) => pid)} answered it`
      return this.#violated('answered once', ended, text, exchange)
    }
    if (error !== undefined && status !== undefined) return this.#violated('not a byte lost', ended, error, exchange)
    if (error !== undefined) return this.#lost(exchange, error)
    if (status === 502) return this.#refused(exchange, this.#wasEmpty(exchange), 'its slot was not empty for so long')
    if (status === 503) return this.#refused(exchange, this.#wasFull(exchange), 'not so many wait')
    if (status !== 200) return this.#violated('answered', ended, `the status is ${status}`, exchange)
    if (answers[0]?.pid !== exchange.worker) {
      return this.#violated(
        'answered once',
        ended,
        `worker ${exchange.worker} never wrote down that it answers`,
        exchange,
      )
    }
    const astray = this.#astray(exchange)
    return astray === undefined ? 'answered' : this.#violated('sticky', ended, astray, exchange)
  }

  /**
   * @param {Exchange} exchange
   * @param {boolean} excused
   * @param {string} text
   */
  #refused(exchange, excused, text) {
    if (excused) return `${exchange.status}`
    return this.#violated('refused with reason', exchange.ended, `${exchange.status}, but ${text}`, exchange)
  }

  /**
   * A connection without an answer.
   * @param {Exchange} exchange
   * @param {string} error
   */
  #lost(exchange, error) {
    if (error === 'EADDRNOTAVAIL' || error === 'EMFILE') return 'not asked'
    if (error === 'ECONNREFUSED') return this.#violated('never refused', exchange.ended, error, exchange)
    if (error.startsWith('hangs')) return this.#violated('nobody hangs', exchange.ended, error, exchange)
    const { key, began, ended } = exchange
    // By the clock that all share: another connection may have the same addresses before or later.
    const since = exchange.nth > 0 ? 0 : began
    const owner = (this.#adoptions.get(key) ?? []).findLast(({ t }) => t >= since && t <= ended)
    if (owner && this.#killedWithin(owner.pid, owner.t, ended)) return 'lost with its worker'
    // A worker that goes ends what is idle; a request may just be on its way.
    if (exchange.nth > 0 && owner && this.#isLeaving(owner.pid, began, ended)) return 'kept by one that left'
    if (this.#during('primary-descriptors', began, ended)) return 'shed'
    // What nobody had adopted is the primary's, and a worker of node:cluster ends with its primary.
    const isPrimarys = !owner || this.#evidence.configuration.manager === 'cluster'
    if (isPrimarys && this.#during('orphan', began, ended)) return 'lost with its primary'
    if (!owner && this.#evidence.kernel && this.#takenByKill(exchange)) return 'lost with its worker'
    const had = owner ? `worker ${owner.pid} had adopted it` : 'nobody had adopted it'
    return this.#violated('nothing is lost', ended, `${error}, and ${had}`, exchange)
  }

  /**
   * @param {number} pid
   * @param {number} from
   * @param {number} to
   */
  #killedWithin(pid, from, to) {
    const killed = this.#killed.get(pid)
    return killed !== undefined && killed >= from - SLACK && killed <= to + SLACK
  }

  /**
   * Whether a worker had lost its slot by then.
   * @param {number} pid
   * @param {number} from
   * @param {number} to
   */
  #isLeaving(pid, from, to) {
    return this.#timeline.within(from - SLACK, to + SLACK).some(({ pids }) => !pids.includes(pid))
  }

  /**
   * Where the kernel steers, a killed worker takes one more connection with it: that which it was accepting.
   * @param {Exchange} exchange
   */
  #takenByKill(exchange) {
    const servers = this.#servers(exchange)
    for (const [pid, at] of this.#killed) {
      if (this.#spent.has(pid) || !servers.has(pid) || at < exchange.began - SLACK || at > exchange.ended + SLACK)
        continue
      this.#spent.add(pid)
      return true
    }
    return false
  }

  /**
   * @param {string} kind
   * @param {number} from
   * @param {number} to
   */
  #during(kind, from, to) {
    return this.#evidence.faults.some((fault) => fault.kind === kind && fault.from <= to && fault.to + SLACK >= from)
  }

  /** @param {Exchange} exchange */
  #wasEmpty(exchange) {
    const slotsAmong = (/** @type {number} */ count) => this.#slotsAmong(exchange, count)
    const killedAt = (/** @type {number} */ pid) => this.#killed.get(pid)
    const empty = this.#timeline.emptyFor(slotsAmong, exchange.began, exchange.ended, killedAt)
    return empty >= this.#patience - PATIENCE_SLACK
  }

  /**
   * Whether as many as may wait can have waited.
   * @param {Exchange} exchange
   */
  #wasFull({ began, ended }) {
    const { exchanges, faults, configuration } = this.#evidence
    const others = exchanges.filter((other) => other.began <= ended && other.ended >= began).length - 1
    const hostile = faults.filter(({ kind, from, to }) => kind === 'hostile' && from <= ended && to >= began)
    const waiting = hostile.reduce((sum, { count = 0 }) => sum + count, others)
    return waiting >= (configuration.options.maxPending ?? 1024)
  }

  /**
   * The time in which the table counts for an exchange. Who was stuck acts, or writes, later.
   * @param {Exchange} exchange
   */
  #timeOf({ began, ended }) {
    let [from, to] = [began - SLACK, ended + SLACK]
    for (const fault of this.#evidence.faults) {
      if (!['stop', 'block'].includes(fault.kind) || fault.from > to || fault.to < from) continue
      from = Math.min(from, fault.from - SLACK)
      to = Math.max(to, fault.to + SLACK)
    }
    return { from, to }
  }

  /**
   * The slots that an exchange may have been for.
   * @param {Exchange} exchange
   * @param {number} from
   * @param {number} to
   * @returns {Set<number>}
   */
  #slots(exchange, from, to) {
    const slots = new Set()
    for (const { pids } of this.#timeline.within(from, to)) {
      for (const slot of this.#slotsAmong(exchange, pids.length)) slots.add(slot)
    }
    return slots
  }

  /**
   * The slots that an exchange may be for when there are so many.
   * @param {Exchange} exchange
   * @param {number} count
   * @returns {number[]}
   */
  #slotsAmong({ client, shown }, count) {
    const all = [...Array(count).keys()]
    const { affinity } = this.#evidence.configuration.options
    if (affinity && shown !== undefined) {
      const slot = this.#evidence.tokens.get(shown)
      if (slot === undefined) return all
      if (slot < count) return [slot]
    }
    if (affinity && affinity.fallback !== 'address') return all
    const slot = this.#timeline.slotOf(this.#clientNumbers.get(client) ?? -1, count)
    return slot === undefined ? all : [slot]
  }

  /**
   * The workers that may have answered.
   * @param {Exchange} exchange
   * @returns {Set<number | null>}
   */
  #servers(exchange) {
    const { from, to } = this.#timeOf(exchange)
    const tables = this.#timeline.within(from, to)
    const slots = this.#slots(exchange, from, to)
    return new Set(tables.flatMap(({ pids }) => [...slots].map((slot) => pids[slot] ?? null)))
  }

  /**
   * Why an answer is of the wrong worker, if so.
   * @param {Exchange} exchange
   */
  #astray(exchange) {
    const { nth, worker = 0, client, shown, began, ended } = exchange
    // A kept connection stays where it is. Without descriptors who has not spoken yet goes by his peer.
    if (nth > 0 || this.#during('primary-descriptors', began, ended)) return
    const servers = this.#servers(exchange)
    if (servers.has(worker) || this.#lostItsSlot(exchange)) return
    const who = shown === undefined ? client : `the session of slot ${this.#evidence.tokens.get(shown)}`
    return `worker ${worker} answered ${who}, which is for ${[...servers].join(' or ')}`
  }

  /**
   * Whether another primary took over meanwhile that has fewer slots. What the one before had accepted is for the slot that
   * it had there; where that is gone, by the address of its peer.
   * @param {Exchange} exchange
   */
  #lostItsSlot(exchange) {
    const { from, to } = this.#timeOf(exchange)
    const tables = this.#timeline.within(from, to)
    return tables.some((table) =>
      tables.some((later) => {
        if (later.primary === table.primary || later.from < table.from) return false
        return this.#slotsAmong(exchange, table.pids.length).some((slot) => slot >= later.pids.length)
      }),
    )
  }

  /** What befell primaries and workers. */
  processes() {
    for (const text of this.#timeline.contradictions) this.#violated('sticky', 0, text)
    for (const { at, text } of this.#evidence.troubles) this.#violated('all is well', at, text)
    /** @type {Set<number>} primaries */
    const closed = new Set()
    for (const { t, pid, what, ...fields } of this.#evidence.entries) {
      // A worker that is just starting ends with an error of Node's own when its primary is done and hangs up.
      if (what === 'exit' && !closed.has(pid)) this.#exit(t, fields)
      if (what === 'closed') {
        closed.add(pid)
        this.#counters(t, pid, fields.stats)
      }
    }
  }

  /**
   * @param {number} at
   * @param {any} exit
   */
  #exit(at, { child, code, signal }) {
    if (code === 0 || this.#killed.has(child)) return
    this.#violated('nobody crashes', at, `worker ${child} ended (${signal ?? code})`)
  }

  /**
   * @param {number} at
   * @param {number} pid
   * @param {import('../..').BalancerStats} stats
   */
  #counters(at, pid, { accepted, adopted, refused, gone, rejected, waiting, identifying, slots }) {
    // A balancer that closes leaves to their workers what these have not acknowledged.
    const left = slots.reduce((sum, { inFlight }) => sum + inFlight, 0)
    const lost = accepted - (adopted + refused + gone + rejected + left)
    if (lost >= 0 && lost <= this.#uncounted(pid) && waiting === 0 && identifying === 0) return
    const counts = JSON.stringify({ accepted, adopted, refused, gone, rejected, left, waiting, identifying })
    this.#violated('counters add up', at, counts)
  }

  /**
   * How many connections a primary may have counted when they came, and not have seen since: where the kernel steers, those
   * in its queues when another one took over, and those that killed workers were accepting.
   * @param {number} pid
   */
  #uncounted(pid) {
    if (!this.#evidence.kernel) return 0
    return this.#timeline.tables.at(-1)?.primary === pid ? this.#killed.size : Infinity
  }
}

/**
 * @param {Entry[]} entries
 * @param {string} what
 * @param {string} field
 * @returns {Map<string, Entry[]>}
 */
function grouped(entries, what, field) {
  const groups = new Map()
  for (const entry of entries) {
    if (entry.what !== what) continue
    const group = groups.get(entry[field])
    if (group) group.push(entry)
    else groups.set(entry[field], [entry])
  }
  return groups
}

module.exports = { judge }
