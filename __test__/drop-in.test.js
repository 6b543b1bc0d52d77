'use strict'

// Programs written for the original run unchanged: those in fixtures/drop-in make exactly the calls
// that its README shows.

const assert = require('node:assert/strict')
const { test: nodeTest } = require('node:test')
const { loopback, parallel, request, until } = require('./support/client')
const { start } = require('./support/process')

// Who is never served, and never told so, is waited for no longer than this.
const test = (name, body) => nodeTest(name, { timeout: 120_000 }, body)

/** The program, and its port once both workers serve. */
async function running(t, file) {
  const program = start(t, `drop-in/${file}`)
  const { port } = await Promise.race([
    program.next('listening'),
    program.exited.then(() => assert.fail(`${file} ended: ${program.stderr}`)),
  ])
  // The README's patience is half a second; here a worker may take longer to start.
  await until(async () => {
    const { slots } = await program.call('stats')
    return slots.length === 2 && slots.every(({ pid }) => pid)
  })
  return { program, port }
}

/**
 * One request on a connection of its own, for each of `total`, from `addresses` addresses in turn.
 * @returns {Promise<Map<string, Set<string>>>} for each address the answers that it got
 */
async function answers(port, total, addresses) {
  const seen = new Map()
  await parallel(total, 32, async (n) => {
    const localAddress = loopback(n % addresses)
    const { status, body } = await request(port, { localAddress })
    assert.equal(status, 200)
    if (!seen.has(localAddress)) seen.set(localAddress, new Set())
    seen.get(localAddress).add(body)
  })
  assert.equal(seen.size, addresses)
  return seen
}

/** Each address was always answered by one worker. Returns for each worker how many addresses it has. */
function clientsOfWorkers(seen) {
  const clients = new Map()
  for (const [address, workers] of seen) {
    assert.equal(workers.size, 1, `${address} reached ${[...workers]}`)
    const [worker] = workers
    clients.set(worker, (clients.get(worker) ?? 0) + 1)
  }
  return clients
}

for (const [form, file] of [
  ['createBalancer(cluster.activeWorkers, options)', 'positional.js'],
  ['createBalancer({ activeWorkers: cluster.activeWorkers, ...options })', 'options.js'],
]) {
  test(`${form}: 10,000 connections from 500 addresses, each address on one of two busy workers`, async (t) => {
    const { program, port } = await running(t, file)
    const clients = clientsOfWorkers(await answers(port, 10_000, 500))
    assert.deepEqual(
      [...clients.keys()].sort(),
      (await program.call('stats')).slots.map(({ pid }) => `worker: ${pid}`).sort(),
    )
    // The seed is random; a fair one gives fewer than 30 % once in 10^18 runs.
    for (const [worker, count] of clients) assert.ok(count > 150, `${worker} serves ${count} of 500 addresses`)
    // A client has its answer before the primary has counted the adoption.
    const stats = await until(async () => {
      const stats = await program.call('stats')
      return stats.adopted >= 10_000 && stats
    })
    const { accepted, adopted, refused, waiting, slots } = stats
    assert.deepEqual(
      { accepted, adopted, refused, waiting },
      { accepted: 10_000, adopted: 10_000, refused: 0, waiting: 0 },
    )
    for (const { pid, adopted } of slots) assert.equal(adopted, clients.get(`worker: ${pid}`) * 20)
    assert.equal(program.stderr, '')
  })
}

test('an unknown option is a warning that names it, and a known one that is near, and all else works', async (t) => {
  const { program, port } = await running(t, 'unknown-option.js')
  const warnings = await program.call('warnings')
  assert.equal(warnings.length, 2)
  for (const { name, code } of warnings) {
    assert.deepEqual({ name, code }, { name: 'StickyListenWarning', code: 'STICKY_UNKNOWN_OPTION' })
  }
  const [strategy, maxRetry] = warnings.map(({ message }) => message)
  assert.match(strategy, /"strategy"/)
  assert.doesNotMatch(strategy, /Did you mean/)
  assert.match(maxRetry, /"maxRetry".*"maxRetries"/)

  const clients = clientsOfWorkers(await answers(port, 400, 100))
  assert.equal(clients.size, 2)
  assert.equal((await program.call('stats')).refused, 0)
})

test('named imports work in ES modules, on both sides', async (t) => {
  const { program, port } = await running(t, 'cluster.mjs')
  const clients = clientsOfWorkers(await answers(port, 400, 100))
  assert.equal(clients.size, 2)
  assert.equal(program.stderr, '')
})
