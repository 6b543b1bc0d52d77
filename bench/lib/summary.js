'use strict'

// From the measurements of all rounds to medians and ratios.

const { spread } = require('./statistics')

/**
 * @typedef {object} Measurement
 * @property {number} start
 * @property {number} round of this start
 * @property {string} workload
 * @property {string} contender
 * @property {import('./workloads').Figures} figures
 */

/**
 * One contender under one workload.
 * @typedef {object} Row
 * @property {string} contender
 * @property {{ [figure: string]: import('./statistics').Spread | undefined }} figures
 * @property {{ [other: string]: { [figure: string]: import('./statistics').Spread | undefined } }} ratios
 *   of every figure to another contender's, each of the same round
 */

/** @typedef {{ [workload: string]: Row[] }} Summary */

/**
 * @param {Measurement[]} measurements
 * @param {string} workload
 * @param {string} contender
 */
function rounds(measurements, workload, contender) {
  const own = measurements.filter((m) => m.workload === workload && m.contender === contender)
  return new Map(own.map(({ start, round, figures }) => [`${start}.${round}`, figures]))
}

/**
 * @param {Measurement[]} measurements
 * @param {import('./workloads').Workload[]} workloads
 * @returns {Summary}
 */
function summarize(measurements, workloads) {
  /** @type {Summary} */
  const summary = {}
  for (const { name, against } of workloads) {
    const contenders = new Set(measurements.filter((m) => m.workload === name).map((m) => m.contender))
    summary[name] = [...contenders].map((contender) => {
      const own = rounds(measurements, name, contender)
      const known = Object.keys([...own.values()][0])
      /** @type {(value: (round: string, figure: string) => number) => Row['figures']} */
      const spreads = (value) =>
        Object.fromEntries(
          known.map((figure) => [figure, spread([...own.keys()].map((round) => value(round, figure)))]),
        )
      const ratios = against.map((other) => {
        const theirs = rounds(measurements, name, other)
        return [
          other,
          spreads(
            (round, figure) => (own.get(round)?.[figure] ?? Number.NaN) / (theirs.get(round)?.[figure] ?? Number.NaN),
          ),
        ]
      })
      return {
        contender,
        figures: spreads((round, figure) => own.get(round)?.[figure] ?? Number.NaN),
        ratios: Object.fromEntries(ratios),
      }
    })
  }
  return summary
}

module.exports = { summarize }
