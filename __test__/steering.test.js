'use strict'

// Who brings connections to their workers, the kernel or the primary, and that it makes no difference to clients.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const { isDeepStrictEqual } = require('node:util')
const { createBalancer } = require('..')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { balanced, signal, start, workersOf } = require('./support/process')
const { kernelSteers } = require('./support/steering')

const none = () => []
const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'

/** Both ways, wherever both are to be tried. */
const WAYS = kernelSteers ? ['kernel', 'handover'] : ['handover']

/**
 * A manager whose table the test sets, with some workers.
 * @param {import('node:test').TestContext} t
 */
async function managed(t, workers, options) {
  const primary = start(t, 'managers/hand-made.js', { args: [options] })
  const { port } = await primary.call('listen')
  const pids = []
  for (let n = 0; n < workers; n++) pids.push(await primary.call('fork'))
  /** Sets the table, and waits until it is served. */
  const setTable = async (table) => {
    await primary.call('setArray', table)
    await until(async () => {
      const { slots } = await primary.call('stats')
      return slots.length === table.length && slots.every(({ pid }, slot) => pid === table[slot])
    })
  }
  return { primary, port, pids, setTable }
}

/** A balancer that listens, and what its steering is then. */
async function steeringOf(t, options, ...listenArgs) {
  const balancer = createBalancer({ activeWorkers: none, ...options })
  assert.equal(balancer.steering, null)
  balancer.listen(...listenArgs)
  t.after(() => balancer.close())
  await once(balancer, 'listening')
  return balancer.steering
}

test('the kernel steers where the client is the peer, and says so', { skip: !kernelSteers }, async (t) => {
  for (const steering of ['auto', 'kernel']) {
    for (const host of ['127.0.0.1', '::', undefined]) {
      const { mode, reason } = await steeringOf(t, { steering }, 0, host)
      assert.equal(mode, 'kernel')
      assert.match(reason, /address/)
    }
  }
})

test('elsewhere connections are handed over, and why is said', async (t) => {
  const given = net.createServer().listen(0, '127.0.0.1')
  await once(given, 'listening')
  t.after(() => given.close())
  const cases = [
    [{ steering: 'handover' }, [0, '127.0.0.1'], /option/],
    [{ behindProxy: true }, [0, '127.0.0.1'], /behindProxy/],
    [{ proxyProtocol: true }, [0, '127.0.0.1'], /proxyProtocol/],
    [{ affinity: { query: 'sid' } }, [0, '127.0.0.1'], /affinity/],
    [{}, [path.join(directory(t), 'socket')], /path/],
    [{}, [given], /handle/],
  ]
  for (const [options, listenArgs, reason] of cases) {
    const steering = await steeringOf(t, options, ...listenArgs)
    assert.equal(steering.mode, 'handover')
    if (kernelSteers) assert.match(steering.reason, reason)
  }
})

test("'kernel' where it cannot be throws an error that says why", { skip: !kernelSteers }, async (t) => {
  const error = (message) => ({ code: 'ERR_STICKY_STEERING', message })
  for (const [option, value] of [
    ['behindProxy', true],
    ['proxyProtocol', true],
    ['affinity', { query: 'sid' }],
  ]) {
    assert.throws(() => createBalancer(none, { steering: 'kernel', [option]: value }), error(new RegExp(option)))
  }
  const balancer = createBalancer(none, { steering: 'kernel' })
  t.after(() => balancer.close())
  assert.throws(() => balancer.listen(path.join(directory(t), 'socket')), error(/path/))
  assert.throws(() => balancer.listen({ fd: 0 }), error(/descriptor/))
  const given = net.createServer()
  t.after(() => given.close())
  given.listen(0, '127.0.0.1')
  await once(given, 'listening')
  assert.throws(() => balancer.listen(given), error(/handle/))
  assert.equal(balancer.listening, false)
  assert.throws(() => createBalancer(none, { steering: 'both' }), {
    code: 'ERR_INVALID_ARG_VALUE',
    message: /'options\.steering' must be one of: 'auto', 'kernel', 'handover'\. Received 'both'/,
  })
})

test('guarantee 1, sticky: a client has the same slot whoever brings it there', { skip: !kernelSteers }, async (t) => {
  const slots = []
  for (const steering of WAYS) {
    const { port, pids, setTable } = await managed(t, 3, { steering, seed: 'the same' })
    await setTable(pids)
    slots.push((await workersOf(port, 200)).map((pid) => pids.indexOf(pid)))
  }
  assert.deepEqual(slots[0], slots[1])
  assert.deepEqual(new Set(slots[0]), new Set([0, 1, 2]))
})

test('guarantee 2, even: one slot more moves clients to that slot only', async (t) => {
  for (const steering of WAYS) {
    const { port, pids, setTable } = await managed(t, 4, { steering })
    await setTable(pids.slice(0, 3))
    const before = await workersOf(port, 200)
    await setTable(pids)
    const after = await workersOf(port, 200)
    const moved = after.filter((pid, n) => pid !== before[n])
    assert.ok(moved.length > 20 && moved.length < 90, `${moved.length} of 200 moved`)
    assert.ok(moved.every((pid) => pid === pids[3]))
  }
})

test('a second program that wants the port gets EADDRINUSE', async (t) => {
  for (const steering of WAYS) {
    const { port, pids, setTable } = await managed(t, 2, { steering })
    await setTable(pids)
    const second = createBalancer(none, { steering }).listen(port, '127.0.0.1')
    const [error] = await once(second, 'error')
    assert.equal(error.code, 'EADDRINUSE')
  }
})

for (const [answer, options] of [
  [200, { maxPending: 2000, maxRetries: 400 }],
  [502, { maxPending: 2000, maxRetries: 4 }],
]) {
  test(`1,000 connections that wait for an empty slot are all answered ${answer}`, async (t) => {
    for (const steering of WAYS) {
      const { primary, port, pids } = await managed(t, 1, { steering, ...options })
      await primary.call('setArray', [null])
      const sockets = []
      await parallel(1000, 32, async (n) => {
        const socket = await connect(port, loopback(n))
        socket.write(REQUEST)
        sockets.push(socket)
      })
      if (answer === 200) {
        await until(async () => (await primary.call('stats')).waiting === 1000)
        await primary.call('setArray', pids)
      }
      for (const socket of sockets) assert.equal(Number((await readAll(socket)).slice(9, 12)), answer)
      const { accepted, waiting } = await primary.call('stats')
      assert.deepEqual({ accepted, waiting }, { accepted: 1000, waiting: 0 })
    }
  })
}

test('guarantee 8, bounded: who a stuck worker cannot take is refused and not left without an answer', async (t) => {
  for (const steering of WAYS) {
    const { primary, port, pids, setTable } = await managed(t, 1, { steering, maxPending: 300, maxRetries: 400 })
    await setTable(pids)
    signal(pids[0], 'SIGSTOP')
    const statuses = []
    const answers = Array.from({ length: 3000 }, (_, n) =>
      request(port, { localAddress: loopback(n) }).then(({ status }) => statuses.push(status)),
    )
    await until(() => statuses.length === 2700)
    assert.ok(statuses.every((status) => status === 503))
    signal(pids[0], 'SIGCONT')
    await Promise.all(answers)
    assert.equal(statuses.filter((status) => status === 200).length, 300)
    // Once it keeps up again, all is as before.
    await until(async () => (await primary.call('stats')).waiting === 0)
    assert.equal((await request(port)).status, 200)
  }
})

test('what waits for a slot that is removed goes to the slots that stay', async (t) => {
  for (const steering of WAYS) {
    const { primary, port, pids, setTable } = await managed(t, 2, { steering, maxRetries: 400 })
    await setTable(pids)
    const clients = (await workersOf(port, 100)).flatMap((pid, n) => (pid === pids[1] ? [n] : []))
    signal(pids[1], 'SIGSTOP')
    // Not in flight to the worker, which may still take that: the kernel's queue, at first.
    const answers = clients.map((n) => request(port, { localAddress: loopback(n) }))
    await until(async () => {
      const { waiting, inFlight } = (await primary.call('stats')).slots[1]
      return waiting + inFlight === clients.length
    })
    await setTable([pids[0]])
    signal(pids[1], steering === 'kernel' ? 'SIGCONT' : 'SIGKILL')
    for (const { status, body } of await Promise.all(answers)) {
      assert.equal(status, 200)
      assert.ok(pids.includes(Number(body)))
    }
    for (const pid of await workersOf(port, 100)) assert.equal(pid, pids[0])
  }
})

test('each slot tells who brings its connections, as its worker keeps up, is stuck or is gone', async (t) => {
  for (const steering of WAYS) {
    const { primary, port, pids, setTable } = await managed(t, 2, { steering, maxRetries: 400 })
    await setTable(pids)
    const modes = async () => (await primary.call('stats')).slots.map((slot) => slot.steering)
    const become = (expected) => until(async () => isDeepStrictEqual(await modes(), expected))
    await become([steering, steering])
    const client = (await workersOf(port, 40)).indexOf(pids[0])
    assert.deepEqual(await modes(), [steering, steering])
    signal(pids[0], 'SIGSTOP')
    const waiting = request(port, { localAddress: loopback(client) })
    await become(['handover', steering])
    signal(pids[0], 'SIGCONT')
    assert.equal((await waiting).body, `${pids[0]}`)
    await become([steering, steering])
    signal(pids[0], 'SIGKILL')
    await become(['handover', steering])
  }
})

test('what a worker has accepted is counted though it was killed', async (t) => {
  for (const steering of WAYS) {
    const { primary, port, pids, setTable } = await managed(t, 1, { steering, maxRetries: 400 })
    await setTable(pids)
    await workersOf(port, 100)
    signal(pids[0], 'SIGKILL')
    await until(async () => (await primary.call('stats')).slots[0].pid === null)
    const { accepted, delivered, adopted, waiting, slots } = await primary.call('stats')
    assert.deepEqual(
      { accepted, delivered, adopted, waiting },
      { accepted: 100, delivered: 100, adopted: 100, waiting: 0 },
    )
    assert.equal(slots[0].adopted, 100)
  }
})

test('the counters are complete after close()', async (t) => {
  for (const steering of WAYS) {
    const { primary, port } = await balanced(t, { options: { steering } })
    await workersOf(port, 200)
    await primary.call('close')
    const { accepted, adopted, waiting } = await primary.call('stats')
    assert.deepEqual({ accepted, adopted, waiting }, { accepted: 200, adopted: 200, waiting: 0 })
  }
})

test('the port of a process that exits is free though its workers are busy', async (t) => {
  for (const steering of WAYS) {
    const { primary, port } = await balanced(t, { workers: 1, options: { steering } })
    const [worker] = await workersOf(port, 1)
    t.after(() => signal(worker, 'SIGKILL'))
    signal(worker, 'SIGSTOP')
    primary.call('exit').catch(() => {})
    await primary.exited
    const next = net.createServer().listen(port, '127.0.0.1')
    await once(next, 'listening')
    next.close()
  }
})

test('with more slots than the kernel can tell apart connections are handed over', {
  skip: !kernelSteers,
}, async (t) => {
  const { primary, port, pids, setTable } = await managed(t, 2, { steering: 'kernel' })
  const table = Array.from({ length: 300 }, (_, n) => pids[n % 2])
  await setTable(table)
  const { mode, reason } = await primary.call('steering')
  assert.equal(mode, 'handover')
  assert.match(reason, /256 slots/)
  const many = await workersOf(port, 100)
  assert.deepEqual(new Set(many), new Set(pids))
  assert.deepEqual(await workersOf(port, 100), many)
  await setTable(pids)
  await until(async () => (await primary.call('steering')).mode === 'kernel')
  const few = await workersOf(port, 100)
  assert.deepEqual(await workersOf(port, 100), few)
})

test('a worker that served a slot accepts nothing more for it', { skip: !kernelSteers }, async (t) => {
  const { port, pids, setTable } = await managed(t, 2, { steering: 'kernel' })
  for (let n = 0; n < 6; n++) {
    await setTable([pids[n % 2]])
    for (const pid of await workersOf(port, 20)) assert.equal(pid, pids[n % 2])
  }
  const listening = (pid) =>
    fs.readdirSync(`/proc/${pid}/fd`).filter((fd) => {
      const link = fs.readlinkSync(`/proc/${pid}/fd/${fd}`)
      return link === listener
    }).length
  const inodes = fs
    .readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local, , state]) => state === '0A' && Number.parseInt(local?.split(':')[1], 16) === port)
  assert.equal(inodes.length, 1)
  const listener = `socket:[${inodes[0][9]}]`
  await until(() => listening(pids[0]) === 0)
  await until(() => listening(pids[1]) === 1)
})
