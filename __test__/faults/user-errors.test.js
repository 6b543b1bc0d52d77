'use strict'

// An activeWorkers() that does what it should not.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { loopback, parallel, request, until } = require('../support/client')
const { start } = require('../support/process')

test('fault 9, user errors: whatever activeWorkers() does, it ends nothing, and live workers serve', async (t) => {
  const primary = start(t, 'evil-table.js')
  const { port } = await primary.call('listen')
  await until(async () => (await primary.call('stats')).slots.every(({ pid }) => pid))
  for (const way of await primary.call('ways')) {
    await primary.call('misbehave', way)
    // It is called once a second, so that each way is in use for a while before and during the load.
    const calls = await primary.call('calls')
    await until(async () => (await primary.call('calls')) > calls)
    // A dead worker's slot is an empty one; all others are served.
    const expected = way === 'returns dead workers' ? [200, 502] : [200]
    const seen = new Set()
    await parallel(200, 100, async (n) => {
      seen.add((await request(port, { localAddress: loopback(n) })).status)
    })
    assert.deepEqual([...seen].sort(), expected, way)
  }
  await primary.call('misbehave', 'is good')
  await until(async () => (await primary.call('stats')).slots.length === 2)
  assert.equal(await primary.next('warning'), 'STICKY_ACTIVE_WORKERS_FAILED')
})
