'use strict'

// What sticky balancing is for: long-polling sessions, each request of which must reach the worker
// that knows the session.
//
// STICKY_TEST_SECONDS: how long there is traffic, 30 by default.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { until } = require('./support/client')
const { start } = require('./support/process')

const SECONDS = Number(process.env.STICKY_TEST_SECONDS ?? 30)
const CLIENTS = 200
const WORKERS = 4

// At least one reload, whatever the time.
const PERIOD = Math.min(5, SECONDS / 2)
const RELOADS = Math.ceil(SECONDS / PERIOD) - 1

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))

test(`${CLIENTS} polling socket.io clients, a reload every ${PERIOD} s: no session is lost but of replaced workers`, {
  // Without an end, clients that never come back would be waited for.
  timeout: (SECONDS + 120) * 1000,
}, async (t) => {
  const primary = start(t, 'socket-io/primary.js')
  const { port } = await primary.call('listen')
  const serving = () =>
    until(async () => {
      const { slots } = await primary.call('stats')
      const pids = slots.map(({ pid }) => pid)
      return pids.length === WORKERS && pids.every(Boolean) && pids
    })
  await serving()
  const clients = start(t, 'socket-io/clients.js', { args: [{ port, count: CLIENTS }] })
  t.after(() => clients.stderr && t.diagnostic(clients.stderr))
  await clients.call('connected')
  await sleep(PERIOD)
  for (let reload = 0; reload < RELOADS; reload++) {
    await Promise.all([primary.call('reload'), sleep(PERIOD)])
  }

  const { slots, replaced, unknown } = await primary.call('record')
  const workers = Object.keys(slots).map(Number)
  assert.equal(workers.length, WORKERS * (RELOADS + 1))
  const current = workers.filter((pid) => !replaced[pid])
  assert.deepEqual((await serving()).toSorted(), current.toSorted())
  // All are connected and answered by a worker that is there to stay; without end if not.
  const reports = await clients.call('finish', current)
  assert.equal(reports.length, CLIENTS)

  const workerOf = (session) => Number.parseInt(session, 10)
  const wasReplaced = (worker, at) => replaced[worker] !== undefined && replaced[worker] <= at

  // As the workers have it: whom they did not know, somebody before them in the same slot did.
  for (const { session, by, at } of unknown) {
    const worker = workerOf(session)
    assert.ok(wasReplaced(worker, at), `worker ${by} does not know ${session}, whose worker is still there`)
    assert.equal(slots[by], slots[worker], `${session} was sent to another slot`)
  }
  for (const { n, acks, workers, lost, failed, wrong, connected } of reports) {
    const client = `client ${n}`
    // As the clients have it.
    for (const failure of [...lost, ...failed]) {
      assert.ok(wasReplaced(workerOf(failure.session), failure.at), `${client}: ${JSON.stringify(failure)}`)
    }
    assert.deepEqual(wrong, [], client)
    // They came back by themselves, and never to another slot.
    assert.equal(connected, true, client)
    assert.equal(new Set(workers.map((worker) => slots[worker])).size, 1, `${client}: ${workers}`)
    assert.ok(workers.length > 1, `${client} kept its session, so that nothing was tried`)
    assert.ok(acks > 1, `${client}: ${acks} acks`)
  }
  assert.ok(unknown.length > 0, 'no session was unknown, so that nothing was tried')
  assert.equal((await primary.call('stats')).refused, 0)
  const count = (key) => reports.reduce((sum, { [key]: list }) => sum + list.length, 0)
  t.diagnostic(
    `${reports.reduce((sum, { acks }) => sum + acks, 0)} acks; ${RELOADS} reloads, ${count('lost')} sessions lost, ` +
      `${count('failed')} failures to connect, ${unknown.length} requests for unknown sessions`,
  )
})
