'use strict'

// Measures all contenders in turn, in rounds. See README.md, or --help.

const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')
const { contenders: allContenders, missing } = require('./contenders')
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

// Enough for V8 to have compiled what is hot.
const WARM_UP_SECONDS = 1

const USAGE = `npm run bench -- [options]
  --workloads A,B,...   of: ${allWorkloads.map(({ name }) => name).join(', ')}, ${CEILING} (all)
  --contenders A,B,...  of: ${allContenders.map(({ name }) => name).join(', ')} (all)
  --workers N           of each contender (${TARGET_WORKERS}; the targets are checked with no other)
  --rounds N            (5)
  --seconds S           for each measurement (5)
  --rate R              connections/s of the open loop (a third of what bare reaches)
  --sockets N           idle WebSockets (10000)
  --out DIR             where the JSON and SVG files go (bench/results)
  --quick               2 rounds of 1 s, 1000 WebSockets, into bench/results/quick`

function options() {
  const { values } = parseArgs({
    options: {
      workloads: { type: 'string' },
      contenders: { type: 'string' },
      workers: { type: 'string' },
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
    contenders: allContenders.filter(({ name }) => contenders.includes(name)),
    withCeiling: workloads.includes(CEILING),
    workers: Number(values.workers ?? TARGET_WORKERS),
    rounds: Number(values.rounds ?? (quick ? 2 : 5)),
    seconds: Number(values.seconds ?? (quick ? 1 : 5)),
    rate: Number(values.rate ?? 0),
    sockets: Number(values.sockets ?? (quick ? 1000 : 10_000)),
    out: path.resolve(values.out ?? path.join(__dirname, 'results', quick ? 'quick' : '')),
  }
}

let port = FIRST_PORT

/**
 * Runs a contender for as long as `use` takes. Each gets a port of its own: the last one's may be busy.
 * @template T
 * @param {import('./contenders').Contender} contender
 * @param {number} workers
 * @param {(running: import('./lib/workloads').Running) => Promise<T>} use
 */
async function withRunning(contender, workers, use) {
  const running = new Running(contender, port++, workers)
  try {
    await running.ready()
    return await use(running)
  } finally {
    await running.stop()
  }
}

/** @param {import('./lib/workloads').Running} running */
function warmUp(running) {
  return load.run({ port: running.port, seconds: WARM_UP_SECONDS, xff: running.contender.behindProxy })
}

/**
 * @param {number} workers
 * @param {number} seconds
 */
async function thirdOfSaturation(workers, seconds) {
  const bare = allContenders.find(({ name }) => name === 'bare')
  if (!bare) throw new Error('nothing to take the rate from')
  return withRunning(bare, workers, async (running) => {
    await warmUp(running)
    const { connectionsPerSecond } = await load.run({ port: running.port, seconds })
    return Math.round(connectionsPerSecond / 3)
  })
}

/**
 * One contender's part of a round.
 * @param {import('./contenders').Contender} contender
 * @param {import('./lib/workloads').Workload[]} workloads
 * @param {import('./lib/workloads').Setting} setting
 */
async function measure(contender, workloads, setting) {
  const own = workloads.filter(({ behindProxy }) => Boolean(behindProxy) === Boolean(contender.behindProxy))
  /** @type {{ workload: string, figures: import('./lib/workloads').Figures }[]} */
  const results = []
  const warm = own.filter(({ fresh }) => !fresh)
  if (warm.length) {
    await withRunning(contender, setting.workers, async (running) => {
      await warmUp(running)
      for (const workload of warm) {
        results.push({ workload: workload.name, figures: await workload.measure(running, setting) })
      }
    })
  }
  for (const workload of own.filter(({ fresh }) => fresh)) {
    const figures = await withRunning(contender, setting.workers, (running) => workload.measure(running, setting))
    results.push({ workload: workload.name, figures })
  }
  return results
}

/**
 * @param {number} rounds
 * @param {number} seconds
 */
function measureCeiling(rounds, seconds) {
  const program = path.join(__dirname, 'target', 'release', 'sticky-bench-ceiling')
  const args = ['--rounds', String(rounds), '--seconds', String(seconds)]
  return JSON.parse(execFileSync(program, args, { stdio: ['ignore', 'pipe', 'inherit'] }).toString())
}

async function run() {
  const {
    help,
    workloads,
    contenders,
    withCeiling,
    workers,
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
  const rate = needsRate ? await thirdOfSaturation(workers, seconds) : givenRate
  /** @type {import('./lib/summary').Measurement[]} */
  const measurements = []
  for (let round = 1; round <= rounds; round++) {
    for (const contender of shuffled(present)) {
      console.error(`round ${round} of ${rounds}: ${contender.name}`)
      try {
        for (const result of await measure(contender, workloads, { workers, seconds, rate, sockets })) {
          measurements.push({ round, contender: contender.name, ...result })
        }
      } catch (error) {
        // One that fails must not take the others' results with it.
        remarks.push(`Round ${round} without ${contender.name}: ${/** @type {Error} */ (error).message}`)
      }
    }
  }
  const summary = summarize(measurements, workloads)
  const ceiling = withCeiling ? measureCeiling(rounds, Math.min(seconds, 2)) : undefined
  const result = {
    machine: where,
    setting: { workers, rounds, seconds, rate, sockets },
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
  await plot(result, workloads, out)
  console.log(text)
}

run().catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})
