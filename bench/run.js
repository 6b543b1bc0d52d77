'use strict'

// Measures all contenders in turn, in rounds. See README.md, or --help.

const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')
const { contenders: allContenders, another, missing } = require('./contenders')
const ceilingBench = require('./lib/ceiling')
const load = require('./lib/load')
const { machine } = require('./lib/machine')
const { plot } = require('./lib/plots')
const { report } = require('./lib/report')
const { Running } = require('./lib/running')
const { shuffled } = require('./lib/statistics')
const { summarize } = require('./lib/summary')
const { check } = require('./lib/targets')
const { workloads: allWorkloads } = require('./lib/workloads')

const CEILING = 'ceiling'
// What the targets are about.
const TARGET_WORKERS = 2
// Below the range of the ports that clients get.
const FIRST_PORT = 21_000

// Of each workload, before it is measured: enough for V8 to have compiled what is hot.
const WARM_UP_SECONDS = 2
// To find the rate of the open loop.
const MIN_RATE_SECONDS = 3

const USAGE = `npm run bench -- [options]
  --workloads A,B,...   of: ${allWorkloads.map(({ name }) => name).join(', ')}, ${CEILING} (all)
  --contenders A,B,...  of: ${allContenders.map(({ name }) => name).join(', ')} (all)
  --other DIR           one contender more: this package as it is built in another folder
  --workers N           of each contender (${TARGET_WORKERS}; the targets are checked with no other)
  --starts N            of fresh processes of all contenders (5)
  --rounds N            in each start (3)
  --seconds S           for each measurement (1)
  --rate R              connections/s of the open loop (a third of what bare reaches)
  --sockets N           idle WebSockets (10000)
  --out DIR             where the JSON and SVG files go (bench/results)
  --quick               2 starts with 1 round, 1000 WebSockets, into bench/results/quick`

function options() {
  const { values } = parseArgs({
    options: {
      workloads: { type: 'string' },
      contenders: { type: 'string' },
      other: { type: 'string' },
      workers: { type: 'string' },
      starts: { type: 'string' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      rate: { type: 'string' },
      sockets: { type: 'string' },
      out: { type: 'string' },
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const { quick, help } = values
  /**
   * @param {string | undefined} list
   * @param {string[]} known
   */
  const names = (list, known) => {
    const chosen = list?.split(',') ?? known
    const unknown = chosen.find((name) => !known.includes(name))
    if (unknown !== undefined) throw new Error(`no such name: ${unknown}`)
    return chosen
  }
  const workloads = names(values.workloads, [...allWorkloads.map(({ name }) => name), CEILING])
  const contenders = names(
    values.contenders,
    allContenders.map(({ name }) => name),
  )
  return {
    help,
    workloads: allWorkloads.filter(({ name }) => workloads.includes(name)),
    contenders: [
      ...allContenders.filter(({ name }) => contenders.includes(name)),
      ...(values.other === undefined ? [] : [another(path.resolve(values.other))]),
    ],
    withCeiling: workloads.includes(CEILING),
    workers: Number(values.workers ?? TARGET_WORKERS),
    starts: Number(values.starts ?? (quick ? 2 : 5)),
    rounds: Number(values.rounds ?? (quick ? 1 : 3)),
    seconds: Number(values.seconds ?? 1),
    rate: Number(values.rate ?? 0),
    sockets: Number(values.sockets ?? (quick ? 1000 : 10_000)),
    out: path.resolve(values.out ?? path.join(__dirname, 'results', quick ? 'quick' : '')),
  }
}

let port = FIRST_PORT

/**
 * Starts a contender. Each gets a port of its own: the last one's may be busy.
 * @param {import('./contenders').Contender} contender
 * @param {number} workers
 */
async function start(contender, workers) {
  const running = new Running(contender, port++, workers)
  try {
    await running.ready()
    return running
  } catch (error) {
    await running.stop()
    throw error
  }
}

/**
 * @param {number} workers
 * @param {number} seconds
 */
async function thirdOfSaturation(workers, seconds) {
  const bare = allContenders.find(({ name }) => name === 'bare')
  if (!bare) throw new Error('nothing to take the rate from')
  const running = await start(bare, workers)
  try {
    await load.run({ port: running.port, seconds: WARM_UP_SECONDS })
    const { connectionsPerSecond } = await load.run({ port: running.port, seconds })
    return Math.round(connectionsPerSecond / 3)
  } finally {
    await running.stop()
  }
}

/**
 * Measures contenders beside each other, from their start to their end.
 * @param {import('./contenders').Contender[]} contenders
 * @param {import('./lib/workloads').Workload[]} workloads
 * @param {import('./lib/workloads').Setting & { rounds: number }} setting
 * @param {(contender: import('./contenders').Contender, error: unknown) => void} fail called when one drops out: it
 *   must not take the others' results with it
 */
async function measure(contenders, workloads, setting, fail) {
  /** @type {Omit<import('./lib/summary').Measurement, 'start'>[]} */
  const measurements = []
  /** @type {Map<import('./contenders').Contender, import('./lib/workloads').Running>} */
  const present = new Map()
  /**
   * @template T
   * @param {import('./contenders').Contender} contender
   * @param {() => Promise<T>} use
   * @returns {Promise<T | undefined>}
   */
  const attempt = async (contender, use) => {
    try {
      return await use()
    } catch (error) {
      fail(contender, error)
      const running = present.get(contender)
      present.delete(contender)
      await running?.stop()
    }
  }
  /** @type {(workload: import('./lib/workloads').Workload, contender: import('./contenders').Contender) => boolean} */
  const suits = (workload, contender) => Boolean(workload.behindProxy) === Boolean(contender.behindProxy)
  /** @param {import('./lib/workloads').Workload[]} some that the contenders are for */
  const startAll = async (some) => {
    const wanted = contenders.filter((contender) => some.some((workload) => suits(workload, contender)))
    for (const contender of shuffled(wanted)) {
      await attempt(contender, async () => present.set(contender, await start(contender, setting.workers)))
    }
  }
  const stopAll = async () => {
    for (const running of present.values()) await running.stop()
    present.clear()
  }
  /**
   * @param {import('./lib/workloads').Workload} workload
   * @param {number} n the round's number
   * @param {number} seconds
   */
  const round = async (workload, n, seconds = setting.seconds) => {
    for (const [contender, running] of shuffled([...present])) {
      if (!suits(workload, contender)) continue
      const figures = await attempt(contender, () => workload.measure(running, { ...setting, seconds }))
      // Round 0 warms up.
      if (figures && n > 0) measurements.push({ round: n, workload: workload.name, contender: contender.name, figures })
    }
  }
  try {
    const warm = workloads.filter(({ fresh }) => !fresh)
    await startAll(warm)
    for (const workload of warm) {
      await round(workload, 0, WARM_UP_SECONDS)
      for (let n = 1; n <= setting.rounds; n++) await round(workload, n)
    }
    for (const workload of workloads.filter(({ fresh }) => fresh)) {
      await stopAll()
      await startAll([workload])
      await round(workload, 1)
    }
  } finally {
    await stopAll()
  }
  return measurements
}

async function run() {
  const {
    help,
    workloads,
    contenders,
    withCeiling,
    workers,
    starts,
    rounds,
    seconds,
    rate: givenRate,
    sockets,
    out,
  } = options()
  if (help) return console.log(USAGE)

  const remarks = contenders.flatMap((contender) => missing(contender) ?? []).map((remark) => `Left out: ${remark}.`)
  const present = contenders.filter((contender) => !missing(contender))
  const where = machine()

  const needsRate = givenRate === 0 && workloads.some(({ name }) => name === 'latency')
  const rate = needsRate ? await thirdOfSaturation(workers, Math.max(seconds, MIN_RATE_SECONDS)) : givenRate
  const setting = { workers, rounds, seconds, rate, sockets }
  /** @type {import('./lib/summary').Measurement[]} */
  const measurements = []
  for (let start = 1; start <= starts; start++) {
    console.error(`start ${start} of ${starts}`)
    const results = await measure(present, workloads, setting, ({ name }, error) => {
      remarks.push(`Start ${start}: ${name} dropped out: ${/** @type {Error} */ (error).message}`)
    })
    measurements.push(...results.map((result) => ({ start, ...result })))
  }
  const summary = summarize(measurements, workloads)
  const ceiling = withCeiling ? ceilingBench.measure(Math.max(starts, rounds), Math.min(seconds, 2)) : undefined
  const result = {
    machine: where,
    setting: { starts, ...setting },
    remarks,
    targets: workers === TARGET_WORKERS ? check({ summary, ceiling }) : [],
    summary,
    ceiling,
    measurements,
  }

  fs.mkdirSync(out, { recursive: true })
  fs.writeFileSync(path.join(out, 'results.json'), `${JSON.stringify(result, null, 2)}\n`)
  const text = report(result, workloads, present)
  fs.writeFileSync(path.join(out, 'results.md'), `${text}\n`)
  await plot(result, workloads, present, out)
  console.log(text)
}

run().catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})
