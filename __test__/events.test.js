'use strict'

// What a balancer tells of: events, the same on diagnostics channels, counters, and who serves a client.

const assert = require('node:assert/strict')
const { execFile } = require('node:child_process')
const diagnostics = require('node:diagnostics_channel')
const { once } = require('node:events')
const path = require('node:path')
const { test } = require('node:test')
const { promisify } = require('node:util')
const { createBalancer } = require('..')
const { connect, loopback, parallel, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { signal } = require('./support/process')
const { kernelSteers } = require('./support/steering')
const { TIMEOUT, balancing, listening, served } = require('./support/worker-server')

const none = () => []

/** The events that a balancer emits, in order, and those published for it. */
function record(t, balancer) {
  const [events, published] = [[], []]
  for (const kind of ['slot', 'worker', 'refuse']) {
    balancer.on(kind, (event) => events.push({ kind, ...event }))
    const note = ({ balancer: from, ...event }) => {
      if (from === balancer) published.push({ kind, ...event })
    }
    diagnostics.subscribe(`sticky-listen:${kind}`, note)
    t.after(() => diagnostics.unsubscribe(`sticky-listen:${kind}`, note))
  }
  /** Waits until there are so many of a kind; returns them. */
  const next = async (kind, count) => {
    const some = () => events.filter((event) => event.kind === kind).map(({ kind: _, ...event }) => event)
    await until(() => some().length >= count)
    return some()
  }
  return { events, published, next }
}

/** A balancer with two slots that are served. */
async function twoSlots(t, options) {
  const workers = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  const balancer = await balancing(t, workers, options)
  await served(balancer)
  return { workers, balancer }
}

test('a slot tells when it has a worker, and why it has it no more', TIMEOUT, async (t) => {
  const [first, second] = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  const slots = [first]
  const balancer = createBalancer({ activeWorkers: () => slots.map((one) => one?.child) })
  const { events, published, next } = record(t, balancer)
  t.after(() => balancer.close())
  balancer.listen(0, '127.0.0.1')
  const up = { slot: 0, pid: first.pid, up: true, reason: 'listening' }
  assert.deepEqual(await next('slot', 1), [up])
  // The table is read when a worker says something.
  slots[0] = second
  second.call('look', 'server')
  const replaced = [
    { slot: 0, pid: first.pid, up: false, reason: 'replaced' },
    { slot: 0, pid: second.pid, up: true, reason: 'listening' },
  ]
  assert.deepEqual(await next('slot', 3), [up, ...replaced])
  slots.unshift(first)
  first.call('look', 'server')
  await next('slot', 6)
  slots.pop()
  first.call('look', 'server')
  const removed = { slot: 1, pid: second.pid, up: false, reason: 'removed' }
  assert.deepEqual((await next('slot', 7))[6], removed)
  signal(first.pid, 'SIGKILL')
  const killed = { slot: 0, pid: first.pid, up: false, reason: 'closed' }
  assert.deepEqual((await next('slot', 8))[7], killed)
  const workers = (await next('worker', 3)).filter(({ pid }) => pid === first.pid)
  assert.deepEqual(workers, [
    { pid: first.pid, up: true, reason: 'listening' },
    { pid: first.pid, up: false, reason: 'closed' },
  ])
  balancer.close()
  await once(balancer, 'close')
  assert.deepEqual(published, events)
})

test('whoever counts by events ends with nothing after close(), and starts again with listen()', TIMEOUT, async (t) => {
  const workers = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  const balancer = createBalancer({ activeWorkers: () => workers.map(({ child }) => child) })
  const up = { worker: new Set(), slot: new Set() }
  balancer.on('worker', ({ pid, up: now }) => up.worker[now ? 'add' : 'delete'](pid))
  balancer.on('slot', ({ slot, pid, up: now }) => {
    // A worker is up before it has a slot.
    if (now) assert.ok(up.worker.has(pid))
    up.slot[now ? 'add' : 'delete'](slot)
  })
  for (let times = 0; times < 3; times++) {
    balancer.listen(0, '127.0.0.1')
    await until(() => up.slot.size === 2)
    assert.equal(up.worker.size, 2)
    balancer.close()
    await once(balancer, 'close')
    assert.deepEqual([up.worker.size, up.slot.size], [0, 0])
  }
})

test('a session that settles after the next has begun tells of no slot of that', TIMEOUT, async (t) => {
  const workers = [null, await listening(t, 'http')]
  const balancer = await balancing(t, workers, { maxRetries: 2 })
  const { events, next } = record(t, balancer)
  await until(() => balancer.stats().slots[1]?.pid)
  const { port } = balancer.address()
  let n = 0
  while (balancer.slotOf(loopback(n)).slot !== 0) n++
  const refused = request(port, { localAddress: loopback(n) })
  await until(() => balancer.stats().waiting === 1)
  balancer.close()
  balancer.listen(0, '127.0.0.1')
  assert.equal((await refused).status, 502)
  const [event] = await next('refuse', 1)
  assert.deepEqual(event, { slot: 0, status: 502, reason: 'the balancer closes', count: 1 })
  await next('slot', 2)
  const last = (kind) => events.findLast((one) => one.kind === kind)
  assert.deepEqual([last('slot').up, last('worker').up], [true, true])
})

test('refusals are told in batches, with their slot, status and reason', TIMEOUT, async (t) => {
  const slots = [null]
  const balancer = await balancing(t, slots, { maxRetries: 0 })
  const { events } = record(t, balancer)
  const { port } = balancer.address()
  await parallel(50, 10, async () => {
    const { status, headers, body } = await request(port)
    assert.deepEqual([status, headers['content-type'], headers['retry-after']], [502, 'text/plain', undefined])
    assert.equal(body, '502 Bad Gateway: no worker took the connection in time\n')
  })
  const told = () => events.reduce((sum, { count }) => sum + count, 0)
  await until(() => told() === 50)
  assert.ok(events.length <= 5, `${events.length} events`)
  for (const { count: _, ...event } of events) {
    assert.deepEqual(event, { kind: 'refuse', slot: 0, status: 502, reason: 'it has no worker' })
  }
  assert.equal(balancer.stats().refused, 50)
})

test('the 503 says when to come again, and which slot is full', TIMEOUT, async (t) => {
  const balancer = await balancing(t, [null], { maxPending: 1 })
  const { next } = record(t, balancer)
  const { port } = balancer.address()
  const waiting = await connect(port)
  await until(() => balancer.stats().waiting === 1)
  const { status, headers, body } = await request(port)
  assert.deepEqual([status, headers['retry-after'], headers['content-type']], [503, '1', 'text/plain'])
  assert.match(body, /^503 Service Unavailable: .*\n$/)
  const [event] = await next('refuse', 1)
  assert.deepEqual(event, { slot: 0, status: 503, reason: 'more than maxPending (1) wait', count: 1 })
  waiting.destroy()
})

test('a listener that throws is an uncaught exception, and stops no balancer', TIMEOUT, async () => {
  const program = `
    const http = require('node:http')
    const balancer = require('..').createBalancer(() => [], { maxRetries: 0 }).listen(0, '127.0.0.1')
    let answers = 0
    const get = () => http.get({ port: balancer.address().port, agent: false }, ({ statusCode }) => {
      console.log(statusCode)
      if (++answers === 2) balancer.close()
      else get()
    })
    process.on('uncaughtException', ({ message }) => console.log(message))
    balancer.on('refuse', () => { throw new Error('thrown') }).on('listening', get)`
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', program], { cwd: __dirname })
  assert.deepEqual(
    stdout
      .trim()
      .split('\n')
      .filter((line) => line !== 'thrown'),
    ['502', '502'],
  )
  assert.match(stdout, /thrown/)
})

test('the counters tell how long was waited, each share, who steers and since when', TIMEOUT, async (t) => {
  const { balancer } = await twoSlots(t)
  const { port } = balancer.address()
  await parallel(400, 8, async (n) => {
    await request(port, { localAddress: loopback(n) })
  })
  await until(() => balancer.stats().adopted === 400)
  const { waits, slots, steering, uptime } = balancer.stats()
  assert.ok(Math.abs(slots[0].share + slots[1].share - 1) < 1e-9)
  assert.equal(slots[0].share, slots[0].adopted / 400)
  assert.equal(steering?.mode, kernelSteers ? 'kernel' : 'handover')
  assert.ok(uptime > 0 && uptime < performance.now() / 1000)
  const counted = waits.counts.reduce((sum, count) => sum + count, 0)
  // One in 64 of each worker, which stands for those before it.
  const least = kernelSteers ? 400 - 2 * 64 : 400
  assert.ok(counted >= least && counted <= 400, `${counted}`)
  assert.ok(waits.sum >= 0 && waits.sum < 400 * 1000)
  assert.equal(waits.counts.length, waits.bounds.length + 1)
})

test('how long was waited for a worker that came late is counted', TIMEOUT, async (t) => {
  const slots = [null]
  const balancer = await balancing(t, slots)
  const answer = request(balancer.address().port)
  await until(() => balancer.stats().waiting === 1)
  const from = performance.now()
  slots[0] = await listening(t, 'http')
  await answer
  await until(() => balancer.stats().adopted === 1)
  const { waits } = balancer.stats()
  assert.ok(waits.sum > 0 && waits.sum < performance.now() - from + 1000)
  assert.equal(
    waits.counts.reduce((sum, count) => sum + count, 0),
    1,
  )
  balancer.close()
  await once(balancer, 'close')
  assert.deepEqual(balancer.stats().waits, waits)
  assert.deepEqual([balancer.stats().uptime, balancer.slotOf('192.0.2.1')], [0, null])
})

test('slotOf() tells which worker serves a client', TIMEOUT, async (t) => {
  const { workers, balancer } = await twoSlots(t)
  const { port } = balancer.address()
  await parallel(50, 8, async (n) => {
    const address = loopback(n)
    const { slot, pid } = balancer.slotOf(address)
    assert.deepEqual(balancer.slotOf(`::ffff:${address}`), { slot, pid })
    assert.deepEqual(balancer.slotOf(`fe80::${n}%eth0`), balancer.slotOf(`fe80::${n}`))
    assert.equal(pid, workers[slot].pid)
    assert.equal((await request(port, { localAddress: address })).body, `${pid}`)
  })
  assert.throws(() => balancer.slotOf('me'), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /'client' must be an IP address/,
  })
  assert.throws(() => balancer.slotOf(), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /"client" argument must be of type string/,
  })
})

test('slotOf() knows the names that a header may give', TIMEOUT, async (t) => {
  const { balancer } = await twoSlots(t, { behindProxy: true, cipHeader: 'x-user' })
  for (const name of ['ann', 'bob', 'cid', 'dee', '192.0.2.7']) {
    const { body } = await request(balancer.address().port, { headers: { 'X-User': name } })
    assert.equal(balancer.slotOf(name).pid, Number(body))
  }
})

test('slotOf() knows that all are one client at a path', TIMEOUT, async (t) => {
  const at = path.join(directory(t), 'socket')
  const { balancer } = await twoSlots(t, { at: [at] })
  const { pid } = balancer.slotOf('192.0.2.1')
  assert.equal((await request(undefined, { host: undefined, socketPath: at })).body, `${pid}`)
  for (let n = 0; n < 20; n++) assert.equal(balancer.slotOf(loopback(n)).pid, pid)
})

test('nobody serves a client while there are no slots', TIMEOUT, async (t) => {
  const balancer = createBalancer(none)
  t.after(() => balancer.close())
  balancer.listen(0, '127.0.0.1')
  await once(balancer, 'listening')
  assert.equal(balancer.slotOf('192.0.2.1'), null)
})
