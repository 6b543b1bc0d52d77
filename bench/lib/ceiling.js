'use strict'

// The primary alone: what its bench says, and the medians of that.

const { execFileSync } = require('node:child_process')
const path = require('node:path')
const { spread } = require('./statistics')

const PROGRAM = path.join(__dirname, '..', 'target', 'release', 'sticky-bench-ceiling')

/**
 * @typedef {object} Run
 * @property {number} connections
 * @property {number} cpuMicros
 */

/** @typedef {Run & { workers: number, waiting: number, idleCpuMicrosPerSecond: number }} PrimaryRun */

/** @typedef {{ raw: Run, primary: PrimaryRun[] }} Round */

/** @param {Run} run connections per second of processor time */
const rate = ({ connections, cpuMicros }) => (connections / cpuMicros) * 1e6

/**
 * Ratios are to the raw loop of the same round.
 * @param {Round[]} rounds
 */
function summarize(rounds) {
  return {
    raw: { connectionsPerCoreSecond: spread(rounds.map(({ raw }) => rate(raw))) },
    primary: rounds[0].primary.map(({ workers, waiting }, n) => ({
      workers,
      waiting,
      connectionsPerCoreSecond: spread(rounds.map(({ primary }) => rate(primary[n]))),
      ratioToRaw: spread(rounds.map(({ primary, raw }) => rate(primary[n]) / rate(raw))),
      idleCpuMicrosPerSecond: spread(rounds.map(({ primary }) => primary[n].idleCpuMicrosPerSecond)),
    })),
  }
}

/**
 * @param {number} rounds
 * @param {number} seconds of each measurement
 */
function measure(rounds, seconds) {
  const args = ['--rounds', String(rounds), '--seconds', String(seconds)]
  const said = execFileSync(PROGRAM, args, { stdio: ['ignore', 'pipe', 'inherit'] }).toString()
  /** @type {{ rounds: Round[], waiting: object }} */
  const result = JSON.parse(said)
  return { ...summarize(result.rounds), ...result }
}

module.exports = { measure }
