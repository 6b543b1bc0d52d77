'use strict'

// What is measured, and how each result is read.

const { setTimeout: sleep } = require('node:timers/promises')
const load = require('./load')
const { openFileLimit } = require('./machine')

/** @typedef {InstanceType<typeof import('./running').Running>} Running */

/**
 * @typedef {object} Setting
 * @property {number} workers
 * @property {number} seconds
 * @property {number} rate of the open loop, in connections per second
 * @property {number} sockets
 */

/**
 * What came of one workload on one contender in one round. Every figure is a number.
 * @typedef {{ [figure: string]: number }} Figures
 */

/**
 * A column of a workload's table.
 * @typedef {object} Column
 * @property {string} figure
 * @property {string} title
 * @property {number} [digits]
 */

/**
 * @typedef {object} Workload
 * @property {string} name
 * @property {string} title
 * @property {string} main the figure that ratios are of
 * @property {'more' | 'less'} better
 * @property {string[]} against contenders to be compared with
 * @property {Column[]} columns
 * @property {boolean} [behindProxy] for the contenders that read the header, and only for them
 * @property {boolean} [fresh] wants a process that has served nothing yet
 * @property {(running: Running, setting: Setting) => Promise<Figures>} measure
 */

const CONNECTIONS = [
  { figure: 'connectionsPerSecond', title: 'connections/s' },
  { figure: 'p50', title: 'p50 µs' },
  { figure: 'p99', title: 'p99 µs' },
  { figure: 'frontCpuMicros', title: 'CPU µs/connection, primary', digits: 1 },
  { figure: 'allCpuMicros', title: 'all processes', digits: 1 },
]

const REQUESTS = [
  { figure: 'requestsPerSecond', title: 'requests/s' },
  { figure: 'p50', title: 'p50 µs' },
  { figure: 'p99', title: 'p99 µs' },
  { figure: 'frontCpuMicrosPerRequest', title: 'CPU µs/request, primary', digits: 2 },
  { figure: 'allCpuMicrosPerRequest', title: 'all processes', digits: 1 },
  { figure: 'earlyCloses', title: 'closed early' },
]

/**
 * Loads a contender and says what it used.
 * @param {Running} running
 * @param {Parameters<typeof load.run>[0]} flags
 * @returns {Promise<Figures>}
 */
async function loaded(running, flags) {
  const before = running.usage()
  const result = await load.run({ port: running.port, ...flags })
  const after = running.usage()
  const [front, all] = [after.front - before.front, after.all - before.all]
  return {
    connectionsPerSecond: result.connectionsPerSecond,
    requestsPerSecond: result.requestsPerSecond,
    ...result.latencyMicros,
    frontCpuMicros: front / result.connections,
    allCpuMicros: all / result.connections,
    frontCpuMicrosPerRequest: front / result.requests,
    allCpuMicrosPerRequest: all / result.requests,
    earlyCloses: result.earlyCloses,
    errors: result.errors,
    movedClients: result.movedClients,
    latestStartMicros: result.latestStartMicros,
    // The share of a core that the generator itself took: near 1 it is what limits.
    loadCpuShare: result.loadCpuSeconds / result.seconds,
  }
}

/**
 * Opens WebSockets and looks at the memory while they do nothing.
 * @param {Running} running
 * @param {Setting} setting
 * @returns {Promise<Figures>}
 */
async function idle(running, { sockets }) {
  // A proxy that is one process needs two descriptors for each.
  const most = Math.floor((openFileLimit() - 400) / (running.contender.proxies ? 2 : 1))
  const before = running.memory()
  const { load: result, release } = await load.hold({
    port: running.port,
    mode: 'websocket',
    connections: Math.min(sockets, most),
  })
  await sleep(1000)
  const after = running.memory()
  await release()
  const each = (/** @type {number} */ bytes) => bytes / 1024 / result.connections
  return {
    sockets: result.connections,
    frontBefore: before.front / 2 ** 20,
    frontAfter: after.front / 2 ** 20,
    frontEach: each(after.front - before.front),
    allEach: each(after.all - before.all),
    errors: result.errors,
  }
}

/**
 * One request per connection, with so many connections at a time.
 * @param {string} name
 * @param {number} concurrency
 * @returns {Workload}
 */
function connect(name, concurrency) {
  return {
    name,
    title: `One request per connection, at saturation, ${concurrency} connections at a time`,
    main: 'connectionsPerSecond',
    better: 'more',
    against: ['original', 'bare', 'other'],
    columns: CONNECTIONS,
    measure: (running, { seconds }) => loaded(running, { seconds, concurrency }),
  }
}

/** @type {Workload[]} */
const workloads = [
  connect('connect', 64),
  connect('connect-4', 4),
  connect('connect-256', 256),
  {
    name: 'latency',
    title: "Open loop at a third of bare's saturation",
    main: 'p50',
    better: 'less',
    against: ['original', 'bare', 'other'],
    columns: [
      { figure: 'p50', title: 'p50 µs' },
      { figure: 'p90', title: 'p90 µs' },
      { figure: 'p99', title: 'p99 µs' },
      { figure: 'p999', title: 'p99.9 µs' },
      { figure: 'connectionsPerSecond', title: 'connections/s' },
      { figure: 'latestStartMicros', title: 'latest start µs' },
    ],
    measure: (running, { seconds, rate }) => loaded(running, { seconds, rate }),
  },
  {
    name: 'keepalive',
    title: '100 requests per connection',
    main: 'requestsPerSecond',
    better: 'more',
    against: ['original', 'bare', 'other'],
    columns: REQUESTS,
    measure: (running, { seconds }) => loaded(running, { seconds, mode: 'keepalive' }),
  },
  {
    name: 'large',
    title: '64 kB responses, 100 requests per connection',
    main: 'requestsPerSecond',
    better: 'more',
    against: ['original', 'bare', 'other'],
    columns: REQUESTS,
    measure: (running, { seconds }) => loaded(running, { seconds, mode: 'keepalive', path: '/64k' }),
  },
  {
    name: 'behind-proxy',
    title: 'One request per connection, clients named by X-Forwarded-For or known by a cookie',
    main: 'connectionsPerSecond',
    better: 'more',
    against: ['original-behind-proxy', 'ours-behind-proxy'],
    columns: CONNECTIONS,
    behindProxy: true,
    measure: (running, { seconds }) => loaded(running, { seconds, xff: true }),
  },
  {
    name: 'websockets',
    title: 'Idle WebSockets: resident memory',
    main: 'frontEach',
    better: 'less',
    against: [],
    columns: [
      { figure: 'sockets', title: 'WebSockets' },
      { figure: 'frontBefore', title: 'primary before, MiB', digits: 1 },
      { figure: 'frontAfter', title: 'after, MiB', digits: 1 },
      { figure: 'frontEach', title: 'primary KiB each', digits: 2 },
      { figure: 'allEach', title: 'all processes KiB each', digits: 2 },
    ],
    fresh: true,
    measure: idle,
  },
]

module.exports = { workloads }
