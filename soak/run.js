'use strict'

// Random faults, once a week's worth.
//
//   node soak/run.js [--minutes n] [--seed n] [--seconds n (of each history)] [--shrink-minutes n] [--out folder]
//   node soak/run.js --replay file.json [--tries n]

const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')
const { now } = require('./clock')
const { historyOf } = require('./history')
const { judge } = require('./oracle/judge')
const { lifeOf } = require('./oracle/life')
const { Random } = require('./random')
const { shortest } = require('./shrink')
const { Summary } = require('./summary')
const { World } = require('./world')

/** @typedef {import('./history').History} History */

const MINUTE = 60_000
const PROGRESS_EVERY = 10_000

// Violations that are told in full; what one fault breaks often shows in many.
const TOLD = 5
const STDERR_TOLD = 8000

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: `${Date.now() % 2 ** 31}` },
    seconds: { type: 'string', default: '25' },
    'shrink-minutes': { type: 'string', default: '5' },
    out: { type: 'string', default: path.join(__dirname, 'failures') },
    replay: { type: 'string' },
    tries: { type: 'string', default: '3' },
  },
})

for (const name of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(name, () => process.exit(130))

const summary = new Summary()

/**
 * Whether a history ends well.
 * @param {History} history
 * @param {boolean} [tell]
 */
async function lived(history, tell = true) {
  const world = new World(history)
  const evidence = await world.live()
  const verdict = judge(evidence)
  summary.add(history, evidence, verdict)
  if (tell && verdict.violations.length > 0) report(history, evidence, verdict, world.began)
  return verdict
}

/**
 * @param {History} history
 * @param {import('./oracle/judge').Evidence} evidence
 * @param {import('./oracle/judge').Verdict} verdict
 * @param {number} began
 */
function report({ seed, configuration }, evidence, { violations }, began) {
  console.log(`\nseed ${seed}, ${JSON.stringify(configuration)}: ${violations.length} violations`)
  for (const violation of violations.slice(0, TOLD)) {
    console.log(`\n${violation.rule}: ${violation.text}`)
    for (const line of lifeOf(violation, evidence, began)) console.log(`  ${line}`)
  }
  if (evidence.said) console.log(`\non stderr:\n${evidence.said.slice(-STDERR_TOLD)}`)
}

/**
 * The shortest part of a history that fails as well, written to a file.
 * @param {History} history that fails
 * @param {string} rule that it violates
 */
async function shrink(history, rule) {
  const by = now() + Number(values['shrink-minutes']) * MINUTE
  const fails = async (/** @type {import('./history').Step[]} */ steps) => {
    for (let n = 0; n < Number(values.tries) && now() < by; n++) {
      const { violations } = await lived({ ...history, steps }, false)
      if (violations.some((violation) => violation.rule === rule)) return true
    }
    return false
  }
  const steps = await shortest(history.steps, fails, () => now() >= by)
  fs.mkdirSync(values.out, { recursive: true })
  const file = path.join(values.out, `${history.seed}.json`)
  fs.writeFileSync(file, `${JSON.stringify({ ...history, steps }, null, 2)}\n`)
  console.log(`\n${steps.length} of ${history.steps.length} steps still violate "${rule}":`)
  for (const step of steps) console.log(`  ${JSON.stringify(step)}`)
  console.log(`npm run soak -- --replay ${path.relative(process.cwd(), file)}\n`)
}

async function soak() {
  const seeds = new Random(Number(values.seed))
  console.log(`seed ${values.seed}`)
  const by = now() + Number(values.minutes) * MINUTE
  while (now() < by) {
    const ms = Math.min(Number(values.seconds) * 1000, Math.max(1000, by - now()))
    const history = historyOf(seeds.integer(0, 2 ** 31), ms)
    const { violations } = await lived(history)
    if (violations.length > 0) await shrink(history, violations[0].rule)
  }
}

/** @param {string} file */
async function replay(file) {
  const history = JSON.parse(fs.readFileSync(file, 'utf8'))
  for (let n = 0; n < Number(values.tries); n++) {
    if ((await lived(history)).violations.length > 0) break
  }
}

async function main() {
  const progress = setInterval(() => console.log(summary.line()), PROGRESS_EVERY)
  await (values.replay ? replay(values.replay) : soak())
  clearInterval(progress)
  console.log(`\n${summary.text()}`)
  process.exitCode = summary.violations > 0 ? 1 : 0
}

main()
