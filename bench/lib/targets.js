'use strict'

// What the project promises itself, and whether a run keeps it. Speed that was bought with errors, or with
// clients that moved, keeps no promise.

/** @typedef {{ summary: import('./summary').Summary, ceiling?: any }} Result */

/**
 * @typedef {object} Target
 * @property {string} title
 * @property {'>=' | '<='} relation
 * @property {number} must
 * @property {number} [aim]
 * @property {(result: Result) => number | undefined} figure
 * @property {(result: Result) => boolean} [sound] whether the figure was come by honestly
 */

/**
 * The median per-round ratio of ours to another contender's.
 * @param {string} workload
 * @param {string} figure
 * @param {string} other
 * @param {string} [ours]
 * @returns {Pick<Target, 'figure' | 'sound'>}
 */
function ratio(workload, figure, other, ours = 'ours') {
  const row = (/** @type {Result} */ { summary }) => summary[workload]?.find(({ contender }) => contender === ours)
  return {
    figure: (result) => row(result)?.ratios[other]?.[figure]?.median,
    sound: (result) => {
      const { errors, movedClients } = row(result)?.figures ?? {}
      return !errors?.max && !movedClients?.max
    },
  }
}

/** @type {Target[]} */
const targets = [
  {
    title: 'connections/s vs the original',
    relation: '>=',
    must: 2,
    aim: 2.5,
    ...ratio('connect', 'connectionsPerSecond', 'original'),
  },
  {
    title: 'connections/s vs bare',
    relation: '>=',
    must: 0.95,
    aim: 1.05,
    ...ratio('connect', 'connectionsPerSecond', 'bare'),
  },
  {
    title: 'CPU of the primary per connection vs the original',
    relation: '<=',
    must: 0.12,
    aim: 0.07,
    ...ratio('connect', 'frontCpuMicros', 'original'),
  },
  {
    title: 'CPU of all processes per connection vs bare',
    relation: '<=',
    must: 1.05,
    aim: 0.95,
    ...ratio('connect', 'allCpuMicros', 'bare'),
  },
  {
    title: 'p99 at saturation vs the original',
    relation: '<=',
    must: 0.6,
    aim: 0.5,
    ...ratio('connect', 'p99', 'original'),
  },
  {
    title: 'p99 at saturation vs bare',
    relation: '<=',
    must: 1.4,
    aim: 1.2,
    ...ratio('connect', 'p99', 'bare'),
  },
  {
    title: 'p50 at a third of saturation vs bare',
    relation: '<=',
    must: 1.15,
    aim: 1.05,
    ...ratio('latency', 'p50', 'bare'),
  },
  {
    title: 'behindProxy: connections/s vs the original',
    relation: '>=',
    must: 2,
    aim: 2.5,
    ...ratio('behind-proxy', 'connectionsPerSecond', 'original-behind-proxy', 'ours-behind-proxy'),
  },
  {
    title: 'the primary alone: connections/s on one core vs a raw accept4 + close loop',
    relation: '>=',
    must: 0.6,
    aim: 0.8,
    figure: ({ ceiling }) => ceiling?.primary[0]?.ratioToRaw.median,
  },
  {
    title: '100 keep-alive requests per connection: requests/s vs bare',
    relation: '>=',
    must: 0.98,
    aim: 1,
    ...ratio('keepalive', 'requestsPerSecond', 'bare'),
  },
  {
    title: '64 kB responses: requests/s vs bare',
    relation: '>=',
    must: 0.98,
    aim: 1,
    ...ratio('large', 'requestsPerSecond', 'bare'),
  },
  {
    title: 'a waiting connection in the primary: bytes',
    relation: '<=',
    must: 512,
    figure: ({ ceiling }) => ceiling?.waiting.bytesEach,
  },
  {
    title: 'a waiting connection in the primary: descriptors',
    relation: '<=',
    must: 1,
    figure: ({ ceiling }) => ceiling?.waiting.descriptorsEach,
  },
]

/**
 * @param {Result} result
 */
function check(result) {
  return targets.map(({ title, relation, must, aim, figure, sound }) => {
    const measured = figure(result)
    const isSound = sound?.(result) ?? true
    /** @type {(bound: number | undefined) => boolean | undefined} */
    const holds = (bound) => {
      if (measured === undefined || bound === undefined) return undefined
      if (!isSound) return false
      return relation === '>=' ? measured >= bound : measured <= bound
    }
    return { title, relation, must, aim, measured, isSound, mustHolds: holds(must), aimHolds: holds(aim) }
  })
}

module.exports = { check }
