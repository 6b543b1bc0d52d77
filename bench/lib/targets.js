'use strict'

// What the project promises itself, and whether a run keeps it. Speed that was bought with errors, or with
// clients that moved, keeps no promise.

/** @typedef {{ summary: import('./summary').Summary, ceiling?: any }} Result */

/**
 * @typedef {object} Target
 * @property {string} title
 * @property {'>=' | '<='} relation
 * @property {number} must
 * @property {(result: Result) => number | undefined} figure
 * @property {(result: Result) => boolean} [sound] whether the figure was come by honestly
 */

/**
 * The median of something about a contender under a workload.
 * @param {string} contender
 * @param {string} workload
 * @param {(row: import('./summary').Row) => import('./statistics').Spread | undefined} spread
 * @returns {Pick<Target, 'figure' | 'sound'>}
 */
function median(contender, workload, spread) {
  const find = (/** @type {Result} */ { summary }) => summary[workload]?.find((row) => row.contender === contender)
  return {
    figure: (result) => {
      const row = find(result)
      return row && spread(row)?.median
    },
    sound: (result) => {
      const { errors, movedClients } = find(result)?.figures ?? {}
      return !errors?.max && !movedClients?.max
    },
  }
}

/**
 * A figure of a contender.
 * @param {string} contender
 * @param {string} workload
 * @param {string} figure
 */
const absolute = (contender, workload, figure) => median(contender, workload, ({ figures }) => figures[figure])

/**
 * The per-round ratio of a contender's figure to another's.
 * @param {string} contender
 * @param {string} workload
 * @param {string} figure
 * @param {string} other
 */
const ratio = (contender, workload, figure, other) =>
  median(contender, workload, ({ ratios }) => ratios[other]?.[figure])

/** @type {Target[]} */
const targets = [
  {
    title: 'ours: connections/s vs bare, 64 at a time',
    relation: '>=',
    must: 1,
    ...ratio('ours', 'connect', 'connectionsPerSecond', 'bare'),
  },
  {
    title: 'ours: connections/s vs bare, 256 at a time',
    relation: '>=',
    must: 1,
    ...ratio('ours', 'connect-256', 'connectionsPerSecond', 'bare'),
  },
  {
    title: 'ours: connections/s vs bare, 4 at a time',
    relation: '>=',
    must: 0.92,
    ...ratio('ours', 'connect-4', 'connectionsPerSecond', 'bare'),
  },
  {
    title: 'ours: CPU of all processes per connection vs bare, 64 at a time',
    relation: '<=',
    must: 1.02,
    ...ratio('ours', 'connect', 'allCpuMicros', 'bare'),
  },
  {
    title: 'ours: CPU of all processes per connection vs bare, 256 at a time',
    relation: '<=',
    must: 1.02,
    ...ratio('ours', 'connect-256', 'allCpuMicros', 'bare'),
  },
  {
    title: 'ours: CPU of all processes per connection vs bare, 4 at a time',
    relation: '<=',
    must: 1.15,
    ...ratio('ours', 'connect-4', 'allCpuMicros', 'bare'),
  },
  {
    title: 'ours: CPU of the primary per connection, µs',
    relation: '<=',
    must: 1,
    ...absolute('ours', 'connect', 'frontCpuMicros'),
  },
  {
    title: 'ours: p50 at a third of saturation vs bare',
    relation: '<=',
    must: 1.05,
    ...ratio('ours', 'latency', 'p50', 'bare'),
  },
  {
    title: 'ours: p99 at saturation vs bare',
    relation: '<=',
    must: 1,
    ...ratio('ours', 'connect', 'p99', 'bare'),
  },
  {
    title: 'ours: 100 keep-alive requests per connection, requests/s vs bare',
    relation: '>=',
    must: 1,
    ...ratio('ours', 'keepalive', 'requestsPerSecond', 'bare'),
  },
  {
    title: 'ours: 64 kB responses, requests/s vs bare',
    relation: '>=',
    must: 1,
    ...ratio('ours', 'large', 'requestsPerSecond', 'bare'),
  },
  {
    title: 'ours: connections/s vs the original, 64 at a time',
    relation: '>=',
    must: 2.2,
    ...ratio('ours', 'connect', 'connectionsPerSecond', 'original'),
  },
  {
    title: 'handover: connections/s vs bare, 64 at a time',
    relation: '>=',
    must: 0.95,
    ...ratio('handover', 'connect', 'connectionsPerSecond', 'bare'),
  },
  {
    title: 'handover: CPU of the primary per connection vs the original',
    relation: '<=',
    must: 0.15,
    ...ratio('handover', 'connect', 'frontCpuMicros', 'original'),
  },
  {
    title: 'handover: behindProxy, connections/s vs the original',
    relation: '>=',
    must: 2,
    ...ratio('ours-behind-proxy', 'behind-proxy', 'connectionsPerSecond', 'original-behind-proxy'),
  },
  {
    title: 'sessions: connections/s vs behindProxy',
    relation: '>=',
    must: 0.95,
    ...ratio('ours-sessions', 'behind-proxy', 'connectionsPerSecond', 'ours-behind-proxy'),
  },
  {
    title: 'handover: the primary alone, connections/s on one core vs a raw accept4 + close loop',
    relation: '>=',
    must: 0.6,
    figure: ({ ceiling }) => ceiling?.primary[0]?.ratioToRaw.median,
  },
  {
    title: 'handover: a waiting connection in the primary, bytes',
    relation: '<=',
    must: 512,
    figure: ({ ceiling }) => ceiling?.waiting.bytesEach,
  },
  {
    title: 'handover: a waiting connection in the primary, descriptors',
    relation: '<=',
    must: 1,
    figure: ({ ceiling }) => ceiling?.waiting.descriptorsEach,
  },
]

/**
 * @param {Result} result
 */
function check(result) {
  return targets.map(({ title, relation, must, figure, sound }) => {
    const measured = figure(result)
    const isSound = sound?.(result) ?? true
    /** @type {boolean | undefined} */
    let holds
    if (measured !== undefined) holds = isSound && (relation === '>=' ? measured >= must : measured <= must)
    return { title, relation, must, measured, isSound, holds }
  })
}

module.exports = { check }
