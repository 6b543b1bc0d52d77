'use strict'

// Runs the load generator.

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const path = require('node:path')
const readline = require('node:readline')

const PROGRAM = path.join(__dirname, '..', 'target', 'release', 'sticky-bench-load')

/**
 * What the generator prints.
 * @typedef {object} Load
 * @property {number} connections
 * @property {number} requests
 * @property {number} seconds
 * @property {number} connectionsPerSecond
 * @property {number} requestsPerSecond
 * @property {{ p50: number, p90: number, p99: number, p999: number, max: number, mean: number }} latencyMicros
 * @property {number} errors
 * @property {{ [kind: string]: number }} errorKinds
 * @property {number} earlyCloses
 * @property {number} workers
 * @property {number} clients
 * @property {number} movedClients
 * @property {number} latestStartMicros
 * @property {number} loadCpuSeconds
 */

/**
 * Starts the generator and waits for its result. Connections that it holds are open until `release`.
 * @param {{ [flag: string]: string | number | boolean | undefined }} flags
 * @returns {Promise<{ load: Load, release: () => Promise<void> }>}
 */
async function hold(flags) {
  const args = Object.entries(flags).flatMap(([flag, value]) => {
    if (value === undefined || value === false) return []
    return value === true ? [`--${flag}`] : [`--${flag}`, String(value)]
  })
  const generator = spawn(PROGRAM, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(generator, 'exit')
  const lines = readline.createInterface({ input: generator.stdout })
  const line = await Promise.race([once(lines, 'line'), ended.then(() => undefined)])
  if (!line) throw new Error(`the load generator failed: ${PROGRAM} ${args.join(' ')}`)
  const release = async () => {
    generator.stdin.end()
    await ended
  }
  return { load: JSON.parse(line[0]), release }
}

/**
 * Runs the generator to its end.
 * @param {Parameters<typeof hold>[0]} flags
 */
async function run(flags) {
  const { load, release } = await hold(flags)
  await release()
  return load
}

module.exports = { hold, run }
