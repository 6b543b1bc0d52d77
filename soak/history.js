'use strict'

// A history: a configuration and steps with their times, all from one seed. It is plain data, so that it can be written
// down, shortened and lived again.

const { Random } = require('./random')

/**
 * @typedef {object} Configuration
 * @property {'own' | 'cluster'} manager who has the table: the program, or node:cluster
 * @property {number} slots at first
 * @property {{ [option: string]: any }} options of the balancer
 * @property {number} width how many clients ask at the same time
 */

/**
 * @typedef {object} Step
 * @property {number} at milliseconds after the load began
 * @property {Kind} kind
 * @property {number} [pick] which worker or slot, modulo how many there are then
 * @property {number} [ms] for how long, or how far
 * @property {number} [count] of connections, slots or descriptors
 */

/**
 * @typedef {object} History
 * @property {number} seed
 * @property {number} ms how long the load lasts
 * @property {Configuration} configuration
 * @property {Step[]} steps
 */

/** @typedef {keyof typeof WEIGHTS} Kind */

const WEIGHTS = {
  kill: 6,
  stop: 5,
  replace: 5,
  reload: 3,
  resize: 4,
  empty: 3,
  block: 3,
  burst: 4,
  hostile: 8,
  upgrade: 4,
  'abort-upgrade': 2,
  orphan: 1,
  clock: 2,
  'worker-descriptors': 2,
  'primary-descriptors': 2,
}

const MAX_SLOTS = 4

const DAY = 24 * 3600 * 1000

// Nobody's patience ends in a history, and everybody's does.
const PATIENT = { maxRetries: 400, retryDelay: 100 }
const IMPATIENT = { maxRetries: 10, retryDelay: 100 }

/** @type {{ [kind in Kind]: (random: InstanceType<typeof Random>) => Omit<Step, 'at' | 'kind'> }} */
const DRAWN = {
  kill: pick,
  stop: (random) => ({ ...pick(random), ms: random.integer(50, 3000) }),
  replace: pick,
  reload: () => ({}),
  resize: (random) => ({ count: random.integer(1, MAX_SLOTS) }),
  empty: (random) => ({ ...pick(random), ms: random.integer(100, 2500) }),
  block: (random) => ({ ms: random.integer(50, 2000) }),
  burst: (random) => ({ count: random.integer(20, 200) }),
  hostile: (random) => ({ count: random.integer(5, 40) }),
  upgrade: (random) => ({ count: random.integer(1, MAX_SLOTS) }),
  orphan: (random) => ({ count: random.integer(1, MAX_SLOTS) }),
  'abort-upgrade': (random) => ({ ms: random.integer(50, 1500) }),
  'worker-descriptors': (random) => ({
    ...pick(random),
    ms: random.integer(500, 2500),
    count: random.integer(80, 120),
  }),
  clock: (random) => ({ ms: random.integer(-DAY, DAY) }),
  'primary-descriptors': (random) => ({ ms: random.integer(300, 1500), count: random.integer(5, 40) }),
}

/** @param {InstanceType<typeof Random>} random */
function pick(random) {
  return { pick: random.integer(0, 2 ** 16) }
}

/**
 * @param {number} seed
 * @param {number} ms how long its load lasts
 * @returns {History}
 */
function historyOf(seed, ms) {
  const random = new Random(seed)
  return { seed, ms, configuration: configurationFrom(random.fork()), steps: stepsFrom(random.fork(), ms) }
}

/**
 * @param {InstanceType<typeof Random>} random
 * @returns {Configuration}
 */
function configurationFrom(random) {
  const way = random.weighted({ kernel: 5, handover: 3, header: 1, proxy: 1, both: 1, query: 2, cookie: 2 })
  const fallback = random.one(['room', 'address'])
  const options = {
    kernel: {},
    handover: { steering: 'handover' },
    header: { behindProxy: true },
    proxy: { proxyProtocol: true },
    both: { behindProxy: true, proxyProtocol: true },
    query: { affinity: { query: 'sid', fallback } },
    cookie: { affinity: { cookie: 'sticky', fallback } },
  }[way]
  return {
    manager: random.one(['own', 'cluster']),
    slots: random.integer(1, MAX_SLOTS),
    options: {
      ...options,
      ...(random.chance(0.7) ? PATIENT : IMPATIENT),
      ...(random.chance(0.3) ? { maxPending: random.integer(1, 40) } : {}),
      ...(random.chance(0.3) ? { seed: `of ${random.integer(0, 1000)}` } : {}),
    },
    width: random.integer(8, 32),
  }
}

/**
 * @param {InstanceType<typeof Random>} random
 * @param {number} ms
 * @returns {Step[]}
 */
function stepsFrom(random, ms) {
  const steps = []
  for (let at = random.integer(200, 1000); at < ms; at += random.integer(50, 1500)) {
    const kind = random.weighted(WEIGHTS)
    steps.push({ at, kind, ...DRAWN[kind](random) })
  }
  return steps
}

module.exports = { MAX_SLOTS, historyOf }
