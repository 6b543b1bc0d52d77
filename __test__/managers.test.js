'use strict'

// Every way to manage workers: recluster, plain node:cluster, and what people write themselves.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const path = require('node:path')
const { performance } = require('node:perf_hooks')
const { test: nodeTest } = require('node:test')
const { Worker } = require('node:worker_threads')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { signal, start } = require('./support/process')

// A process may take seconds to start on a busy machine; where patience is not the point, there is
// enough of it.
const PATIENT = { maxRetries: 1000, retryDelay: 100 }

// Who is never served, and never told so, is waited for no longer than this.
const test = (name, body) => nodeTest(name, { timeout: 120_000 }, body)

const CLIENTS = 40

/** Waits until these slots, in this order if pids are given, are served. */
function served(primary, slots) {
  return until(async () => {
    const { slots: now } = await primary.call('stats')
    const pids = now.map(({ pid }) => pid)
    if (typeof slots === 'number') return pids.length === slots && pids.every(Boolean) && pids
    return pids.length === slots.length && pids.every((pid, slot) => pid === slots[slot]) && pids
  })
}

/** primary.js with a manager, all its slots served. */
async function managed(t, manager, { workers = 3, options = PATIENT } = {}) {
  const primary = start(t, 'primary.js', { args: [{ manager, workers, options }] })
  const { port } = await primary.call('listen')
  await served(primary, workers)
  return { primary, port }
}

/** hand-made.js with a table of `workers` children. */
async function handMade(t, { workers = 3, options = PATIENT, table = 'setArray' } = {}) {
  const manager = start(t, 'managers/hand-made.js', { args: [options] })
  const pids = await Promise.all(Array.from({ length: workers }, () => manager.call('fork')))
  await manager.call(table, pids)
  const { port } = await manager.call('listen')
  await served(manager, pids)
  return { manager, port, pids }
}

/** For each client the worker that serves it. */
async function workersOf(port) {
  const workers = []
  await parallel(CLIENTS, 8, async (n) => {
    const { status, body } = await request(port, { localAddress: loopback(n) })
    assert.equal(status, 200)
    workers[n] = Number(body)
  })
  return workers
}

/** For each client the slot that serves it. */
async function slotsOf(primary, port) {
  const workers = await workersOf(port)
  const pids = (await primary.call('stats')).slots.map(({ pid }) => pid)
  const slots = workers.map((worker) => pids.indexOf(worker))
  assert.ok(!slots.includes(-1), `workers ${workers}, slots ${pids}`)
  // With a fair seed, 40 clients leave one of 3 slots empty once in 3 million runs.
  assert.equal(new Set(slots).size, pids.length, 'a slot without a client proves nothing')
  return slots
}

/**
 * All clients ask again and again until told to stop; then says for each of them whom it reached, in order,
 * and what went wrong.
 */
function load(t, port) {
  let running = true
  // Even if the test has failed.
  t.after(() => {
    running = false
  })
  const failures = []
  const ended = Promise.all(
    Array.from({ length: CLIENTS }, async (_, n) => {
      const reached = []
      while (running) {
        try {
          const { status, body } = await request(port, { localAddress: loopback(n) })
          if (status !== 200) failures.push({ client: n, reason: status })
          else if (reached.at(-1) !== Number(body)) reached.push(Number(body))
        } catch (error) {
          failures.push({ client: n, reason: error.message })
        }
      }
      return reached
    }),
  )
  return {
    async stop() {
      running = false
      return { reached: await ended, failures }
    },
  }
}

/** While workers were replaced, each client was served by the old one of its slot, then by the new one. */
function assertReplacedInPlace(reached, slots, before, after) {
  for (const [n, workers] of reached.entries()) {
    const own = [...new Set([before[slots[n]], after[slots[n]]])]
    // A client may have been too slow to see both.
    const expected = own.filter((worker) => workers.includes(worker))
    assert.deepEqual(workers, expected, `client ${n}, whose slot had ${own}`)
  }
}

/** What a bare client reads from its connection until it ends, and how long that took in all. */
async function ask(port, client) {
  const from = performance.now()
  const socket = await connect(port, loopback(client))
  socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  const answer = await readAll(socket)
  return { answer, milliseconds: performance.now() - from }
}

const BAD_GATEWAY = /^HTTP\/1\.0 502 Bad Gateway\r\n/

test('recluster, run: every client is served, always in its slot', async (t) => {
  const { primary, port } = await managed(t, 'recluster')
  const slots = await slotsOf(primary, port)
  assert.deepEqual(await slotsOf(primary, port), slots)
})

test('recluster, reload: no request fails, each slot gets a new worker, and no client changes its slot', async (t) => {
  const { primary, port } = await managed(t, 'recluster')
  const slots = await slotsOf(primary, port)
  const old = await served(primary, 3)
  // A request that is under way when its worker is replaced is no exception.
  const { adopted } = await primary.call('stats')
  const slow = Array.from({ length: CLIENTS }, (_, n) =>
    request(port, { localAddress: loopback(n), path: '/slow/1000' }),
  )
  await until(async () => (await primary.call('stats')).adopted === adopted + CLIENTS)
  const traffic = load(t, port)
  await primary.call('reload')
  for (const { status, body } of await Promise.all(slow)) {
    assert.equal(status, 200)
    assert.ok(old.includes(Number(body)))
  }
  // The old ones have gone when their last connections ended, not before.
  await until(async () => {
    const pids = await primary.call('pids')
    return !pids.some((pid) => old.includes(pid))
  })
  const pids = await served(primary, 3)
  assert.ok(!pids.some((pid) => old.includes(pid)), `slots are served by ${pids}, the old ones are ${old}`)
  const { reached, failures } = await traffic.stop()
  assert.deepEqual(failures, [])
  assertReplacedInPlace(reached, slots, old, pids)
  assert.deepEqual(await slotsOf(primary, port), slots)
  assert.equal((await primary.call('stats')).refused, 0)
})

test('recluster, terminate: all workers are gone, clients are told so, and the balancer lives', async (t) => {
  const { primary, port } = await managed(t, 'recluster', { options: { maxRetries: 2, retryDelay: 50 } })
  await primary.call('terminate')
  await until(async () => (await primary.call('pids')).length === 0)
  await parallel(CLIENTS, 8, async (n) => assert.match((await ask(port, n)).answer, BAD_GATEWAY))
  const { accepted, refused, waiting } = await primary.call('stats')
  assert.deepEqual([accepted, refused, waiting], [CLIENTS, CLIENTS, 0])
})

test('recluster, stop: the workers go on, and one that dies is not replaced', async (t) => {
  const { primary, port } = await managed(t, 'recluster', { options: { maxRetries: 10, retryDelay: 50 } })
  await primary.call('stop')
  const workers = await workersOf(port)
  const victim = workers[0]
  signal(victim, 'SIGKILL')
  await until(async () => !(await primary.call('pids')).includes(victim))
  await parallel(CLIENTS, 8, async (n) => {
    const { answer } = await ask(port, n)
    if (workers[n] === victim) assert.match(answer, BAD_GATEWAY)
    else assert.match(answer, new RegExp(`^HTTP/1\\.1 200[^]*\\r\\n\\r\\n${workers[n]}$`))
  })
})

test('node:cluster, respawn: the successor has the slot of the dead, and nobody else moves', async (t) => {
  const { primary, port } = await managed(t, 'cluster')
  const slots = await slotsOf(primary, port)
  // Each slot in turn, so that neither the first nor the last is special.
  for (let slot = 0; slot < 3; slot++) {
    const before = await served(primary, 3)
    const traffic = load(t, port)
    signal(before[slot], 'SIGKILL')
    assert.equal(await primary.next('exit'), before[slot])
    // Its clients wait for the successor; those of the others are served at once by the same worker.
    await workersOf(port)
    const after = await served(primary, 3)
    assert.notEqual(after[slot], before[slot])
    assert.deepEqual(after, before.with(slot, after[slot]))
    const { reached, failures } = await traffic.stop()
    assertReplacedInPlace(reached, slots, before, after)
    // What the dead had adopted died with it.
    for (const { client, reason } of failures) assert.equal(slots[client], slot, `client ${client}: ${reason}`)
    assert.deepEqual(
      await workersOf(port),
      slots.map((own) => after[own]),
    )
  }
})

test('node:cluster: a worker that never called listen has no slot', async (t) => {
  const primary = start(t, 'primary.js', { args: [{ workers: 0, options: PATIENT }] })
  const { port } = await primary.call('listen')
  // First, last and between.
  const idle = [await primary.call('fork', 'managers/idle-worker.js')]
  const busy = [await primary.call('fork')]
  idle.push(await primary.call('fork', 'managers/idle-worker.js'))
  busy.push(await primary.call('fork'))
  idle.push(await primary.call('fork', 'managers/idle-worker.js'))
  await served(primary, busy)
  const workers = await workersOf(port)
  assert.deepEqual(new Set(workers), new Set(busy))
  // Its end is nobody's loss.
  signal(idle[1], 'SIGKILL')
  assert.equal(await primary.next('exit'), idle[1])
  assert.deepEqual(await workersOf(port), workers)
  await served(primary, busy)
})

test('node:cluster, rolling replacement: disconnect() and fork(), one by one; no request fails, no client moves', async (t) => {
  const { primary, port } = await managed(t, 'cluster')
  const slots = await slotsOf(primary, port)
  const old = await served(primary, 3)
  const traffic = load(t, port)
  const replaced = [...old]
  for (const [slot, pid] of old.entries()) {
    const slow = slots.flatMap((own, n) =>
      own === slot ? [request(port, { localAddress: loopback(n), path: '/slow/300' })] : [],
    )
    // By then the old worker has them, or they wait for the new one.
    const { adopted } = await primary.call('stats')
    await until(async () => (await primary.call('stats')).adopted > adopted + CLIENTS)
    // At once: the place of a worker that was told to go is not kept for long while nobody is coming.
    const [, successor] = await Promise.all([primary.call('disconnect', pid), primary.call('fork')])
    replaced[slot] = successor
    await served(primary, replaced)
    for (const { status } of await Promise.all(slow)) assert.equal(status, 200)
    // It ends by itself, when its last connection has.
    assert.equal(await primary.next('exit'), pid)
  }
  const { reached, failures } = await traffic.stop()
  assert.deepEqual(failures, [])
  assertReplacedInPlace(reached, slots, old, replaced)
  assert.deepEqual(await slotsOf(primary, port), slots)
  assert.equal((await primary.call('stats')).refused, 0)
})

test('node:cluster, drained and then replaced: another worker stands in, and no worker changes its slot', async (t) => {
  const { primary, port } = await managed(t, 'cluster')
  const [first, ...others] = await served(primary, 3)
  const slots = await slotsOf(primary, port)
  const client = slots.indexOf(0)
  const { adopted } = await primary.call('stats')
  const slow = request(port, { localAddress: loopback(client), path: '/slow/2000' })
  await until(async () => (await primary.call('stats')).adopted > adopted)
  await primary.call('disconnect', first)
  // It lives, and nobody has been forked.
  const [standIn] = await until(async () => {
    const { slots: now } = await primary.call('stats')
    return now[0].pid !== first && now[0].pid !== null && now.map(({ pid }) => pid)
  })
  assert.deepEqual((await primary.call('stats')).slots.map(({ pid }) => pid).slice(1), others)
  assert.ok(others.includes(standIn))
  assert.equal((await request(port, { localAddress: loopback(client) })).body, `${standIn}`)
  assert.deepEqual([(await slow).status, (await slow).body], [200, `${first}`])
  assert.equal(await primary.next('exit'), first)
  const successor = await primary.call('fork')
  await served(primary, [successor, ...others])
  assert.equal((await request(port, { localAddress: loopback(client) })).body, `${successor}`)
  assert.equal((await primary.call('stats')).refused, 0)
})

test('node:cluster, a worker that goes for good: another stands in, and then the last one moves into its place', async (t) => {
  const { primary, port } = await managed(t, 'cluster')
  const [first, second, third] = await served(primary, 3)
  await primary.call('disconnect', first)
  await served(primary, [second, second, third])
  await workersOf(port)
  await served(primary, [third, second])
  // The last one is nobody's neighbour.
  await primary.call('disconnect', second)
  await served(primary, [third])
  assert.deepEqual(new Set(await workersOf(port)), new Set([third]))
  assert.equal((await primary.call('stats')).refused, 0)
})

test('node:cluster, a successor that starts slowly: another worker stands in, and no worker changes its slot', async (t) => {
  const { primary, port } = await managed(t, 'cluster')
  const [first, ...others] = await served(primary, 3)
  signal(first, 'SIGSTOP')
  const late = await primary.call('fork', 'late-worker.js')
  await primary.call('disconnect', first)
  signal(first, 'SIGKILL')
  await served(primary, [others[0], ...others])
  await workersOf(port)
  await primary.call('tell', late, 'listen')
  await served(primary, [late, ...others])
  assert.equal((await primary.call('stats')).refused, 0)
})

test('a pool of children whose array shrinks with each death and grows with each successor', async (t) => {
  const { primary, port } = await managed(t, 'pool')
  for (let round = 0; round < 3; round++) {
    const [victim, ...others] = await primary.call('pids')
    signal(victim, 'SIGKILL')
    assert.equal(await primary.next('exit'), victim)
    // Two or three slots by now; none of them is that of the dead.
    for (const worker of await workersOf(port)) assert.notEqual(worker, victim)
    const pids = await served(primary, 3)
    assert.deepEqual(pids.slice(0, 2), others)
  }
  assert.equal((await primary.call('stats')).refused, 0)
})

for (const table of ['setArray', 'setObject']) {
  const kind = table === 'setArray' ? 'an array' : 'an array-like object'

  test(`${kind} of children that grows and shrinks moves only the clients of the last slot`, async (t) => {
    const { manager, port, pids } = await handMade(t, { table })
    const three = await workersOf(port)
    const [first, second, third] = pids
    assert.equal(new Set(three).size, 3)

    await manager.call(table, [first, second])
    await served(manager, [first, second])
    const two = await workersOf(port)
    for (const [client, worker] of three.entries()) {
      if (worker === third) assert.ok([first, second].includes(two[client]))
      else assert.equal(two[client], worker)
    }

    await manager.call(table, pids)
    await served(manager, pids)
    assert.deepEqual(await workersOf(port), three)
  })

  test(`${kind} with a hole: 502 when patience ends and not before, others are served`, async (t) => {
    const { manager, port, pids } = await handMade(t, { table, options: { maxRetries: 6, retryDelay: 80 } })
    const workers = await workersOf(port)
    const [first, , third] = pids
    await manager.call(table, [first, null, third])
    await served(manager, [first, null, third])
    await parallel(CLIENTS, CLIENTS, async (n) => {
      const { answer, milliseconds } = await ask(port, n)
      if (workers[n] === pids[1]) {
        assert.match(answer, BAD_GATEWAY)
        assert.ok(milliseconds >= 6 * 80, `given up after ${milliseconds} ms`)
      } else {
        assert.ok(answer.endsWith(`\r\n\r\n${workers[n]}`), answer)
      }
    })
    const homeless = workers.filter((worker) => worker === pids[1]).length
    assert.ok(homeless > 0)
    assert.equal((await manager.call('stats')).refused, homeless)
  })

  test(`${kind} with a hole: a connection that waits is served when the slot fills`, async (t) => {
    const { manager, port, pids } = await handMade(t, { table })
    const workers = await workersOf(port)
    const [first, second, third] = pids
    await manager.call(table, [first, null, third])
    await served(manager, [first, null, third])
    const homeless = workers.flatMap((worker, n) => (worker === second ? [n] : []))
    const asked = homeless.map((n) => request(port, { localAddress: loopback(n) }))
    await until(async () => (await manager.call('stats')).slots[1].waiting === homeless.length)
    const successor = await manager.call('fork')
    await manager.call(table, [first, successor, third])
    for (const { status, body } of await Promise.all(asked)) {
      assert.deepEqual([status, Number(body)], [200, successor])
    }
  })

  test(`${kind} without slots: 502 when patience ends and not before`, async (t) => {
    const { manager, port } = await handMade(t, { table, workers: 0, options: { maxRetries: 6, retryDelay: 80 } })
    await parallel(8, 8, async (n) => {
      const { answer, milliseconds } = await ask(port, n)
      assert.match(answer, BAD_GATEWAY)
      assert.ok(milliseconds >= 6 * 80, `given up after ${milliseconds} ms`)
    })
    assert.equal((await manager.call('stats')).refused, 8)
  })

  test(`${kind} without slots: connections that wait are served when it grows`, async (t) => {
    const { manager, port } = await handMade(t, { table, workers: 0 })
    const asked = Array.from({ length: 8 }, (_, n) => request(port, { localAddress: loopback(n) }))
    await until(async () => (await manager.call('stats')).waiting === 8)
    const worker = await manager.call('fork')
    await manager.call(table, [worker])
    for (const { status, body } of await Promise.all(asked)) {
      assert.deepEqual([status, Number(body)], [200, worker])
    }
  })
}

for (const none of [
  // Either is no patience; what the other says would be weeks.
  { maxRetries: 0, retryDelay: 2 ** 31 - 1 },
  { maxRetries: 1e9, retryDelay: 0 },
]) {
  const [name] = Object.entries(none).find(([, value]) => value === 0)

  test(`${name}: 0 is no patience: a hole and a table without slots are answered at once`, async (t) => {
    const { manager, port, pids } = await handMade(t, { workers: 2, options: none })
    const workers = await workersOf(port)
    await manager.call('setArray', [pids[0], null])
    await served(manager, [pids[0], null])
    const homeless = workers.flatMap((worker, n) => (worker === pids[1] ? [n] : []))
    assert.ok(homeless.length > 0)
    for (const n of homeless) assert.match((await ask(port, n)).answer, BAD_GATEWAY)

    await manager.call('setArray', [])
    await served(manager, [])
    assert.match((await ask(port, 0)).answer, BAD_GATEWAY)
    assert.equal((await manager.call('stats')).refused, homeless.length + 1)
  })
}

test('a child in the table that is dead is an empty slot', async (t) => {
  const { manager, port, pids } = await handMade(t, { options: { maxRetries: 2, retryDelay: 50 } })
  const workers = await workersOf(port)
  const victim = workers[0]
  signal(victim, 'SIGKILL')
  // The manager does not notice, the balancer does.
  await served(
    manager,
    pids.map((pid) => (pid === victim ? null : pid)),
  )
  await parallel(CLIENTS, 8, async (n) => {
    const { answer } = await ask(port, n)
    if (workers[n] === victim) assert.match(answer, BAD_GATEWAY)
    else assert.ok(answer.endsWith(`\r\n\r\n${workers[n]}`), answer)
  })
})

test('what is no worker in a table is an empty slot', async (t) => {
  const { manager, port, pids } = await handMade(t, { workers: 2, options: { maxRetries: 2, retryDelay: 50 } })
  const table = [null, null, null, pids[0], null, null, null, null, null, null, pids[1], null]
  await manager.call('setGarbage', table)
  await served(manager, table)
  const answers = []
  await parallel(CLIENTS, 8, async (n) => {
    answers[n] = (await ask(port, n)).answer
  })
  const refused = answers.filter((answer) => BAD_GATEWAY.test(answer))
  const { refused: counted, slots } = await manager.call('stats')
  assert.equal(refused.length, counted)
  assert.equal(slots[3].adopted + slots[10].adopted, CLIENTS - counted)
  const [garbage, ...refusals] = await manager.call('warnings')
  assert.equal(garbage.code, 'STICKY_NO_PROCESS')
  assert.match(garbage.message, /^Slot 0 is empty, .* Received type number \(42\)\. /)
  assert.ok(
    refusals.every(({ message }) => /slot \d+: it has no worker\. /.test(message)),
    JSON.stringify(refusals),
  )
})

test('activeWorkers that throws or returns no table: one warning, the last table stays, nothing dies', async (t) => {
  const options = { maxRetries: 1e6, retryDelay: 10 }
  const { manager, port, pids } = await handMade(t, { options })
  const workers = await workersOf(port)
  const [first, second, third] = pids
  // One connection waits all the time in an empty slot, so that the table is read again and again.
  await manager.call('setArray', [first, second, null])
  await served(manager, [first, second, null])
  const homeless = workers.indexOf(third)
  const waiting = request(port, { localAddress: loopback(homeless) })
  await until(async () => (await manager.call('stats')).waiting === 1)

  const readSome = async () => {
    const calls = await manager.call('calls')
    await until(async () => (await manager.call('calls')) > calls + 3)
  }
  const housed = workers.flatMap((worker, n) => (worker === third ? [] : [n]))
  let spells = 0
  for (const fault of await manager.call('faults')) {
    await manager.call('setFault', fault)
    await readSome()
    const { slots } = await manager.call('stats')
    assert.deepEqual(
      slots.map(({ pid }) => pid),
      [first, second, null],
      `while it ${fault}`,
    )
    spells++
    const warnings = await manager.call('warnings')
    assert.equal(warnings.length, spells, `while it ${fault}: ${JSON.stringify(warnings)}`)
    assert.equal(warnings.at(-1).code, 'STICKY_ACTIVE_WORKERS_FAILED')
    for (const n of housed.slice(0, 8)) {
      const { status, body } = await request(port, { localAddress: loopback(n) })
      assert.deepEqual([status, Number(body)], [200, workers[n]], `while it ${fault}`)
    }
    // A later failure is another one, and warned of again.
    await manager.call('setFault')
    await readSome()
  }

  await manager.call('setArray', pids)
  assert.deepEqual(await waiting.then(({ status, body }) => [status, Number(body)]), [200, third])
  assert.deepEqual(await workersOf(port), workers)
})

test('activeWorkers that throws from the start: one warning, and all is well once it does not', async (t) => {
  const manager = start(t, 'managers/hand-made.js', { args: [{ maxRetries: 1e6, retryDelay: 10 }] })
  await manager.call('setFault', 'throws an error')
  const { port } = await manager.call('listen')
  const asked = request(port)
  await until(async () => (await manager.call('stats')).waiting === 1)
  await until(async () => (await manager.call('calls')) > 3)
  const [warning, ...more] = await manager.call('warnings')
  assert.equal(warning.code, 'STICKY_ACTIVE_WORKERS_FAILED')
  assert.match(warning.message, /the manager is not ready/)
  assert.deepEqual(more, [])
  const worker = await manager.call('fork')
  await manager.call('setArray', [worker])
  await manager.call('setFault')
  const { status, body } = await asked
  assert.deepEqual([status, Number(body)], [200, worker])
})

for (const manager of ['child_process', 'node:cluster']) {
  test(`a thread of worker_threads may have the balancer, and fork its workers: ${manager}`, async (t) => {
    const file = path.join(__dirname, 'fixtures', 'balancing-thread.js')
    const thread = new Worker(file, { workerData: manager })
    t.after(() => thread.terminate())
    const [{ port, pids }] = await once(thread, 'message')
    t.after(() => {
      for (const pid of pids) signal(pid, 'SIGKILL')
    })
    for (const worker of await workersOf(port)) assert.ok(pids.includes(worker))
  })
}
