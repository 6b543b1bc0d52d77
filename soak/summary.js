'use strict'

// What a run came to.

const { now } = require('./clock')

class Summary {
  #began = now()
  #histories = 0
  #connections = 0
  #requests = 0
  #upgrades = 0
  /** @type {Map<string, number>} */
  #steps = new Map()
  /** @type {Map<string, number>} */
  #outcomes = new Map()
  violations = 0

  /**
   * @param {import('./history').History} history
   * @param {import('./oracle/judge').Evidence} evidence
   * @param {import('./oracle/judge').Verdict} verdict
   */
  add(history, evidence, verdict) {
    this.#histories++
    this.#connections += evidence.exchanges.filter(({ nth }) => nth === 0).length
    this.#requests += evidence.exchanges.length
    this.#upgrades += evidence.entries.filter(({ what }) => what === 'closed').length - 1
    for (const { kind } of history.steps) count(this.#steps, kind)
    for (const [outcome, times] of Object.entries(verdict.outcomes)) count(this.#outcomes, outcome, times)
    this.violations += verdict.violations.length
  }

  line() {
    const minutes = ((now() - this.#began) / 60_000).toFixed(1)
    const counts = [
      `${this.#histories} histories`,
      `${this.#connections} connections`,
      `${this.#requests} requests`,
      `${this.violations} violations`,
    ]
    return `${minutes} min: ${counts.join(', ')}`
  }

  text() {
    const list = (/** @type {Map<string, number>} */ counts) =>
      [...counts].sort(([, a], [, b]) => b - a).map(([name, times]) => `${name} ${times}`)
    return [
      this.line(),
      `requests: ${list(this.#outcomes).join(', ')}`,
      `steps: ${list(this.#steps).join(', ')}`,
      `upgrades that took over: ${this.#upgrades}`,
    ].join('\n')
  }
}

/**
 * @param {Map<string, number>} counts
 * @param {string} name
 * @param {number} [times]
 */
function count(counts, name, times = 1) {
  counts.set(name, (counts.get(name) ?? 0) + times)
}

module.exports = { Summary }
