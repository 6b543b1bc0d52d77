'use strict'

// What a long life leaves behind: nothing.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { connect, loopback, parallel, readAll, until } = require('../support/client')
const { start } = require('../support/process')

const CONNECTIONS = 200_000
const WARM_UP = 20_000

async function served(t) {
  const primary = start(t, 'leak-primary.js', { args: [1], execArgv: ['--expose-gc'] })
  const { port } = await primary.call('listen')
  await until(async () => (await primary.call('stats')).slots[0]?.pid)
  return { primary, port }
}

async function use(port, connections) {
  await parallel(connections, 32, async (n) => {
    assert.equal(await readAll(await connect(port, loopback(n % 500))), 'served')
  })
}

function assertNoMore(now, before, what) {
  const { megabytes, ...counts } = now
  for (const [name, count] of Object.entries(counts)) {
    assert.ok(count <= before[name], `${what}: ${count} ${name}, ${before[name]} before`)
  }
  assert.ok(megabytes < before.megabytes + 5, `${what}: ${megabytes} MB, ${before.megabytes} before`)
}

test('fault 10, leaks: 200,000 connections leave no more behind than the first 20,000', async (t) => {
  const { primary, port } = await served(t)
  await use(port, WARM_UP)
  const before = await primary.call('holdings')
  await use(port, CONNECTIONS - WARM_UP)
  const after = await primary.call('holdings')
  const grown = (now, then) => `${(now.megabytes - then.megabytes).toFixed(1)} MB`
  t.diagnostic(`primary ${grown(after.primary, before.primary)}, worker ${grown(after.workers[0], before.workers[0])}`)
  assertNoMore(after.primary, before.primary, 'primary')
  assertNoMore(after.workers[0], before.workers[0], 'worker')
})

test('fault 10, leaks: 200 times listen and close leave nothing behind', async (t) => {
  const { primary } = await served(t)
  const cycle = async (times) => {
    for (let n = 0; n < times; n++) {
      await primary.call('close')
      const { port } = await primary.call('listen')
      await use(port, 1)
    }
  }
  // A bare net.Server grows by as much in its first hundreds of cycles.
  await cycle(400)
  const before = await primary.call('holdings')
  await cycle(200)
  const after = await primary.call('holdings')
  assertNoMore(after.primary, before.primary, 'primary')
  assertNoMore(after.workers[0], before.workers[0], 'worker')
})

test('fault 10, leaks: 200 servers that a worker closed again are not held', async (t) => {
  const { primary } = await served(t)
  const again = async (times) => {
    for (let n = 0; n < times; n++) await primary.call('listenAgain')
  }
  await again(200)
  const before = await primary.call('holdings')
  await again(200)
  const after = await primary.call('holdings')
  assertNoMore(after.workers[0], before.workers[0], 'worker')
})

test('fault 10, leaks: 100 replaced workers leave nothing behind', async (t) => {
  const { primary, port } = await served(t)
  const replace = async (times) => {
    for (let n = 0; n < times; n++) {
      const pid = await primary.call('replaceWorker')
      await until(async () => (await primary.call('stats')).slots[0].pid === pid)
      await use(port, 1)
    }
  }
  await replace(50)
  const { primary: before } = await primary.call('holdings')
  await replace(100)
  const { primary: after } = await primary.call('holdings')
  assertNoMore(after, before, 'primary')
})
