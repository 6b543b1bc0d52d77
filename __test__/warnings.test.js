'use strict'

// What the package says by itself when something is wrong: once each, with a code and a remedy.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const path = require('node:path')
const { test } = require('node:test')
const { createBalancer } = require('..')
const { Advice } = require('../lib/primary/advice')
const { Refusals } = require('../lib/primary/refusals')
const { AddressWatch } = require('../lib/worker/sample')
const { connect, loopback, parallel, request } = require('./support/client')
const { directory } = require('./support/places')
const { start } = require('./support/process')
const { TIMEOUT, balancing, listening, served, worker } = require('./support/worker-server')

/** The warnings of this process from here on. */
function record(t) {
  const warnings = []
  const note = ({ name, code, message }) => {
    if (name === 'StickyListenWarning') warnings.push({ code, message })
  }
  process.on('warning', note)
  t.after(() => process.off('warning', note))
  return warnings
}

/** A turn of the event loop, in which warnings are emitted. */
const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Time that passes as the test says. */
function clock(t) {
  let now = 0
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  t.mock.method(performance, 'now', () => now)
  return (milliseconds) => {
    now += milliseconds
    t.mock.timers.tick(milliseconds)
  }
}

const member = (pid, names = []) => ({ pid, foreign: false, listeners: new Map(names.map((name) => [name, 1])) })

test('a balancer that never gets a worker says so, sooner while clients wait', async (t) => {
  const warnings = record(t)
  for (const [waiting, after] of [
    [0, 10_000],
    [1, 3000],
  ]) {
    const pass = clock(t)
    const advice = new Advice({ name: 'default', activeWorkers: () => [] }, undefined)
    const look = () => advice.look([null], () => ({ waiting, slots: [] }))
    pass(after - 1)
    look()
    await turn()
    assert.deepEqual(warnings, [])
    pass(1)
    look()
    pass(60_000)
    look()
    await turn()
    const [{ code, message }] = warnings.splice(0)
    assert.equal(code, 'STICKY_NO_WORKERS')
    assert.match(message, new RegExp(`no worker for ${after / 1000} s: activeWorkers.*errors\\.md#sticky_no_workers$`))
    assert.deepEqual(warnings, [])
    t.mock.timers.reset()
    t.mock.restoreAll()
  }
})

test('a balancer that had a worker does not say that it never got one', async (t) => {
  const warnings = record(t)
  const pass = clock(t)
  const advice = new Advice({ name: 'default' }, undefined)
  advice.look([member(1, ['default'])], () => ({ waiting: 0, slots: [] }))
  pass(60_000)
  advice.look([null], () => ({ waiting: 9, slots: [] }))
  await turn()
  assert.deepEqual(warnings, [])
})

test('a worker that does not listen while clients wait is named, once', async (t) => {
  const warnings = record(t)
  const pass = clock(t)
  let slot = { channel: 0, waiting: 0 }
  const advice = new Advice({ name: 'admin' }, undefined)
  const look = () => advice.look(members, () => ({ waiting: 9, slots: [{ channel: 0, waiting: 1 }, slot, slot, slot] }))
  const closed = member(78, ['admin'])
  const foreign = { ...member(79), foreign: true }
  const members = [member(1, ['admin']), member(77, ['default']), closed, foreign]
  look()
  pass(60_000)
  // Nobody waits, or its predecessor serves who does.
  look()
  slot = { channel: 5, waiting: 1 }
  look()
  await turn()
  assert.deepEqual(warnings, [])
  slot = { channel: 0, waiting: 1 }
  closed.listeners.clear()
  look()
  look()
  await turn()
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['STICKY_WORKER_NOT_LISTENING'],
  )
  assert.match(warnings[0].message, /^Worker 77 has been in slot 1 for 60 s .* under the name "admin"/)
})

test('the first refusal of a slot is said at once, then how many there were, once a minute', async (t) => {
  const warnings = record(t)
  const pass = clock(t)
  const events = []
  let refused = []
  const refusals = new Refusals(
    () => refused.splice(0),
    (slot, status) => `because of ${slot}, ${status}`,
    (event) => events.push(event),
  )
  const refuse = (...some) => {
    refused.push(...some)
    refusals.announce()
  }
  refuse({ slot: 1, status: 502, count: 3 })
  refuse({ slot: 1, status: 502, count: 4 }, { slot: 2, status: 503, count: 1 })
  assert.equal(events.length, 1)
  pass(1000)
  assert.deepEqual(events.slice(1), [
    { slot: 1, status: 502, reason: 'because of 1, 502', count: 4 },
    { slot: 2, status: 503, reason: 'because of 2, 503', count: 1 },
  ])
  await turn()
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['STICKY_BAD_GATEWAY', 'STICKY_OVERLOADED'],
  )
  assert.match(warnings[0].message, /^3 connections were answered 502 Bad Gateway for slot 1: because of 1, 502\. /)
  assert.match(warnings[1].message, /^1 connection was answered 503 Service Unavailable for slot 2: /)
  warnings.length = 0
  pass(60_000)
  await turn()
  assert.match(warnings[0].message, /^4 connections were answered 502/)
  assert.equal(warnings.length, 1)
  pass(120_000)
  // Quiet for a minute: the next one is a first one again.
  refuse({ count: 2 }, { slot: 1, status: 502, count: 1 })
  await turn()
  assert.deepEqual(
    warnings.slice(1).map(({ code }) => code),
    ['STICKY_OUT_OF_DESCRIPTORS', 'STICKY_BAD_GATEWAY'],
  )
  // What is left is said at the end, announced or not.
  refused = [{ slot: 1, status: 502, count: 5 }]
  refusals.end()
  await turn()
  assert.equal(events.at(-1).count, 5)
  assert.match(warnings.at(-1).message, /^5 connections/)
  const { length } = warnings
  pass(120_000)
  await turn()
  assert.equal(warnings.length, length)
})

test('a worker in the table that has not called listen() is the reason of its 502s', TIMEOUT, async (t) => {
  const warnings = record(t)
  const silent = await worker(t, 'http')
  const balancer = await balancing(t, [silent], { maxRetries: 0 })
  const [event] = await Promise.all([once(balancer, 'refuse'), request(balancer.address().port)])
  const reason = 'its worker has no server that listens by sticky.listen(server)'
  assert.equal(event[0].reason, reason)
  await turn()
  assert.ok(warnings[0].message.includes(`slot 0: ${reason}.`), warnings[0].message)
})

test('a path where clients are not told apart is named, unless they are', TIMEOUT, async (t) => {
  const warnings = record(t)
  const workers = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  for (const options of [{ behindProxy: true }, { proxyProtocol: true }, {}]) {
    const at = path.join(directory(t), 'socket')
    await served(await balancing(t, workers, { at: [at], ...options }))
    await turn()
    const expected = Object.keys(options).length > 0 ? [] : ['STICKY_ONE_ADDRESS']
    assert.deepEqual(
      warnings.map(({ code }) => code),
      expected,
    )
  }
})

test('a worker all of whose clients have one address says which, once', { timeout: 60_000 }, async (t) => {
  const workers = await Promise.all([listening(t, 'net'), listening(t, 'net')])
  const balancer = await balancing(t, workers)
  await served(balancer)
  const { port } = balancer.address()
  const from = loopback(7)
  const { slot } = balancer.slotOf(from)
  const visit = async (address) => {
    const socket = await connect(port, address)
    socket.resume().end()
    await once(socket, 'close')
  }
  await parallel(2100, 16, () => visit(from))
  const { code, message } = await workers[slot].next('warning')
  assert.equal(code, 'STICKY_ONE_ADDRESS')
  assert.match(message, new RegExp(`worker ${workers[slot].pid} come from ${from} .*, whose slot is one of 2\\.`))
})

test('another address, or none, or a single slot is no reason to say so', async (t) => {
  const warnings = record(t)
  const from = (address) => ({ getpeername: (out) => Object.assign(out, { address }) })
  for (const [clients, slotsByAddress] of [
    [[from('192.0.2.1'), from('192.0.2.2')], 2],
    [[from(undefined)], 2],
    [[{}], 2],
    [[from('192.0.2.1')], 1],
  ]) {
    const watch = new AddressWatch()
    // The 65th is looked at as well, and all after it are alike.
    for (let n = 0; n < 10_000; n++) watch.look(clients[n < 64 ? 0 : clients.length - 1], { slotsByAddress })
  }
  await turn()
  assert.deepEqual(warnings, [])
})

test('a worker whose requests hide their sessions says so', async (t) => {
  const workers = await Promise.all([listening(t, 'https'), listening(t, 'http2'), listening(t, 'http')])
  await balancing(t, workers, { affinity: { query: 'sid' } })
  for (const worker of workers.slice(0, 2)) {
    const { code, message } = await worker.next('warning')
    assert.equal(code, 'STICKY_SESSIONS_HIDDEN')
    assert.match(message, /under the name "default" gets requests that the balancer cannot read/)
  }
  const [, , plain] = workers
  let warned = false
  plain.next('warning').then(() => {
    warned = true
  })
  await plain.call('look', 'server')
  assert.equal(warned, false)
})

test('a worker that hears of no balancer says so, and knows PM2', { timeout: 30_000 }, async (t) => {
  const [lone, pm2, served] = await Promise.all([
    listening(t, 'http'),
    start(t, 'worker-server.js', { env: { pm_id: '0', exec_mode: 'cluster_mode' } }),
    listening(t, 'http'),
  ])
  await pm2.call('create', 'server', 'http')
  await pm2.call('listen', 'server', { name: 'admin' })
  await balancing(t, [served])
  const { code, message } = await lone.next('warning')
  assert.equal(code, 'STICKY_NO_BALANCER')
  assert.match(message, new RegExp(`^Worker ${lone.pid} has heard of no balancer for 10 s .*createBalancer`))
  const other = await pm2.next('warning')
  assert.match(other.message, /under the name "admin" .*fork mode/)
  // Its own would have come before.
  await served.call('look', 'server')
  let warned = false
  served.next('warning').then(() => {
    warned = true
  })
  await served.call('look', 'server')
  assert.equal(warned, false)
})

test('a balancer that closes says nothing any more', async (t) => {
  const warnings = record(t)
  const pass = clock(t)
  const balancer = createBalancer(() => [])
  balancer.listen(0, '127.0.0.1')
  await once(balancer, 'listening')
  balancer.close()
  pass(60_000)
  await turn()
  assert.deepEqual(warnings, [])
})
