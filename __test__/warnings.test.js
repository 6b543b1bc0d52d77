'use strict'

// What the package says by itself when something is wrong: once each, with a code and a remedy.

const assert = require('node:assert/strict')
const { ChildProcess } = require('node:child_process')
const { once } = require('node:events')
const path = require('node:path')
const { test } = require('node:test')
const { Worker } = require('node:worker_threads')
const { createBalancer } = require('..')
const { Advice } = require('../lib/primary/advice')
const { Refusals } = require('../lib/primary/refusals')
const { readTable } = require('../lib/primary/table')
const { AddressWatch } = require('../lib/worker/sample')
const { connect, loopback, parallel, readAll, request } = require('./support/client')
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

test('what is no worker process in the table is named, once for a balancer, and what may be missing is not', async (t) => {
  const warnings = record(t)
  const thread = new Worker('', { eval: true })
  t.after(() => thread.terminate())
  const dead = (await worker(t, 'http')).child
  dead.kill('SIGKILL')
  await once(dead, 'exit')
  const unborn = new ChildProcess()
  const proper = 'Return those that cluster.fork() or child_process.fork() return, and null for an empty slot.'
  for (const [wrong, received, remedy] of [
    [thread, 'an instance of Worker', 'A thread can take no connections: fork processes.'],
    [5, 'type number (5)', proper],
    ['worker', "type string ('worker')", proper],
    [{}, 'an instance of Object', proper],
    [false, 'type boolean (false)', proper],
  ]) {
    // One of them is a hole.
    // biome-ignore lint/suspicious/noSparseArray: that is what is tested
    const table = [null, undefined, , dead, unborn, wrong, {}]
    const activeWorkers = () => table
    for (let n = 0; n < 2; n++) assert.deepEqual(readTable(activeWorkers), Array(7).fill(null))
    await turn()
    const [{ code, message }] = warnings.splice(0)
    assert.equal(code, 'STICKY_NO_PROCESS')
    assert.match(message, /^Slot 5 is empty, as activeWorkers\(\) returns no process with an IPC channel for it\. /)
    assert.ok(message.includes(` Received ${received}. ${remedy} See `), message)
    assert.deepEqual(warnings, [])
  }
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

/** Counters of a balancer with these numbers of connections in its slots; `null` is a slot without a worker. */
const counted = (adopted, others) => ({
  delivered: 0,
  refused: 0,
  rejected: 0,
  waiting: 0,
  ...others,
  slots: adopted.map((count, n) => ({ channel: count === null ? 0 : n + 1, waiting: 0, adopted: count ?? 0 })),
})

/** The codes of the warnings after each of these counters were looked at. */
async function looked(t, options, ...counters) {
  const warnings = record(t)
  const advice = new Advice({ name: 'default', ...options }, undefined)
  const after = []
  for (const one of counters) {
    advice.look([member(1, ['default'])], () => one)
    await turn()
    after.push(warnings.map(({ code }) => code).join())
  }
  return after
}

test('where no connection has had a PROXY header that is said, once there are 100', async (t) => {
  const none = (rejected, others) => counted([0, 0], { rejected, ...others })
  const one = 'STICKY_NO_PROXY_HEADER'
  for (const [options, counters, expected] of [
    [{ proxyProtocol: true }, [none(99), none(100), none(100_000)], ['', one, one]],
    // A stranger, or what a proxy sends that checks health, is no reason.
    [{ proxyProtocol: true }, [none(99, { delivered: 1 }), none(100_000)], ['', '']],
    [{ proxyProtocol: true }, [none(100, { waiting: 1 }), none(100, { refused: 1 }), none(100)], ['', '', one]],
    [{ behindProxy: true }, [none(100)], ['']],
  ]) {
    assert.deepEqual(await looked(t, options, ...counters), expected)
  }
})

test('where all connections behind a proxy go to one slot of several that is said, once there are 1,000', async (t) => {
  const one = 'STICKY_ONE_ADDRESS'
  const behindProxy = { behindProxy: true, cipHeader: 'x-forwarded-for' }
  for (const [options, slots, expected] of [
    [
      behindProxy,
      [
        [0, 0],
        [0, 999],
        [0, 1000],
        [0, 5000],
      ],
      ['', '', one, one],
    ],
    [
      { proxyProtocol: true },
      [
        [0, 0],
        [1000, 0],
      ],
      ['', one],
    ],
    [
      { ...behindProxy, affinity: { fallback: 'address' } },
      [
        [0, 0],
        [1000, 0],
      ],
      ['', one],
    ],
    // New clients go where there is room, or each peer is a client: then workers look.
    [
      { ...behindProxy, affinity: { fallback: 'room' } },
      [
        [0, 0],
        [1000, 0],
      ],
      ['', ''],
    ],
    [
      {},
      [
        [0, 0],
        [1000, 0],
      ],
      ['', ''],
    ],
    // Two have had some.
    [
      behindProxy,
      [
        [0, 0],
        [1, 1],
        [5000, 1],
      ],
      ['', '', ''],
    ],
    // With one slot, or one that is served, all are there; and what was before another came does not count.
    [behindProxy, [[0], [1000], [1000, 0], [1999, 0], [2000, 0]], ['', '', '', '', one]],
    [
      behindProxy,
      [
        [0, null],
        [1000, null],
        [1000, 0],
        [2000, 0],
      ],
      ['', '', '', one],
    ],
    [
      behindProxy,
      [
        [0, 0],
        [900, 0],
        [900, 0, 0],
        [1899, 0, 0],
        [1900, 0, 0],
      ],
      ['', '', '', '', one],
    ],
  ]) {
    assert.deepEqual(await looked(t, options, ...slots.map((adopted) => counted(adopted))), expected)
  }
})

test('a proxy without a PROXY header: the balancer says what to do', TIMEOUT, async (t) => {
  const warned = once(process, 'warning')
  const balancer = await balancing(t, [await listening(t, 'http')], { proxyProtocol: true })
  await served(balancer)
  const { port } = balancer.address()
  await parallel(100, 16, () => assert.rejects(request(port)))
  const [{ name, code, message }] = await warned
  assert.deepEqual([name, code], ['StickyListenWarning', 'STICKY_NO_PROXY_HEADER'])
  assert.match(message, /^All of the first 100 connections were closed, .* Have the proxy send that header, or leave /)
})

test('a proxy without the header that names clients: the balancer says what to check', TIMEOUT, async (t) => {
  for (const [options, remedy] of [
    [{ behindProxy: true, cipHeader: 'X-Real-IP' }, /the proxy sets the header "x-real-ip" \(the option cipHeader\)/],
    [{ proxyProtocol: true }, /the PROXY header of the proxy names the client: with LOCAL or UNKNOWN/],
  ]) {
    const warned = once(process, 'warning')
    const balancer = await balancing(t, await Promise.all([listening(t, 'http'), listening(t, 'http')]), options)
    await served(balancer)
    const { port } = balancer.address()
    await parallel(1000, 16, async () => {
      const socket = await connect(port)
      socket.write(options.proxyProtocol ? 'PROXY UNKNOWN\r\n' : '')
      socket.end('GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n')
      await readAll(socket)
    })
    const [{ code, message }] = await warned
    assert.equal(code, 'STICKY_ONE_ADDRESS')
    const slot = balancer.stats().slots.findIndex(({ adopted }) => adopted > 0)
    assert.match(message, new RegExp(`^1000 connections went to slot ${slot}, one of 2, and none to any other`))
    assert.match(message, remedy)
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
