'use strict'

// Workers that die, and managers that replace them, faster than anybody should have to bear.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { setTimeout: wait } = require('node:timers/promises')
const { parallel, loopback, request } = require('../support/client')
const { Load } = require('../support/load')
const { balanced, signal } = require('../support/process')
const { kernelSteers } = require('../support/steering')

test('fault 1, kill storm: nothing is lost before adoption, and nobody hangs or is refused', async (t) => {
  const { primary, port } = await balanced(t, {
    workers: 4,
    options: { maxRetries: 200, retryDelay: 100 },
    // The workers' log of what they adopt.
    env: { NODE_DEBUG: 'sticky-listen' },
  })
  const load = new Load(port, 32)
  let kills = 0
  for (const end = Date.now() + 12_000; Date.now() < end; await wait(400)) {
    const pids = await primary.call('pids')
    signal(pids[Math.floor(Math.random() * pids.length)], 'SIGKILL')
    kills++
  }
  await load.stop()

  const adopted = new Set()
  for (const [, line] of primary.stderr.matchAll(/adopting (\{.*\})/g)) {
    const { address, port } = JSON.parse(line)
    adopted.add(`${address}:${port}`)
  }
  const lost = load.failures.filter(({ client }) => !adopted.has(client))
  // Where the kernel steers, a worker has accepted a connection a moment before it can say so.
  assert.ok(lost.length <= (kernelSteers ? kills : 0), `lost before adoption: ${lost.map(({ client }) => client)}`)
  for (const { why } of load.failures) assert.equal(why, 'ECONNRESET')
  t.diagnostic(
    `${kills} kills, ${load.answered} answered, ${load.failures.length} lost with a worker that had adopted them`,
  )

  // Afterwards everything works.
  const { refused } = await primary.call('stats')
  assert.equal(refused, 0)
  await parallel(100, 8, async (n) => {
    assert.equal((await request(port, { localAddress: loopback(n) })).status, 200)
  })
})

test('fault 4, reload storm: no request fails, uploads and streams included', async (t) => {
  const { primary, port } = await balanced(t, {
    manager: 'recluster',
    workers: 2,
    options: { maxRetries: 200, retryDelay: 100 },
  })
  const body = 'x'.repeat(1_000_000)
  const streamed = Array.from({ length: 20 }, (_, n) => `part ${n}\n`).join('')
  const load = new Load(port, 12, (n) => {
    if (n % 4 === 0) return { method: 'POST', path: '/echo', body, expect: body }
    if (n % 4 === 1) return { path: '/stream/20', expect: streamed }
    return {}
  })
  let reloads = 0
  for (const end = Date.now() + 20_000; Date.now() < end; await wait(1500)) {
    primary.call('reload').catch(() => {})
    reloads++
  }
  await load.stop()
  t.diagnostic(`${reloads} reloads, ${load.answered} answered`)
  assert.deepEqual(load.failures, [])
  assert.ok(load.answered > 100)
})
