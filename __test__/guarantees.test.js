'use strict'

// The guarantees of the design that need real processes, each by name. Those about the hash alone
// (even, keyed) are proved in src/client/hash.rs, the state machine in src/primary/handover/queue/tests.rs.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const http = require('node:http')
const { test } = require('node:test')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { balanced, signal, start, workersOf } = require('./support/process')
const { kernelSteers } = require('./support/steering')

test('guarantee 1, sticky: one client, one slot, as long as the number of slots stays', async (t) => {
  const { port } = await balanced(t, { workers: 4 })
  const seen = new Map()
  await parallel(1000, 16, async (n) => {
    const client = loopback(n % 100)
    const { body } = await request(port, { localAddress: client })
    if (!seen.has(client)) seen.set(client, new Set())
    seen.get(client).add(body)
  })
  assert.equal(seen.size, 100)
  for (const [client, workers] of seen) assert.equal(workers.size, 1, `${client} reached ${[...workers]}`)
  assert.equal(new Set([...seen.values()].flatMap((workers) => [...workers])).size, 4)
})

test('guarantee 1, sticky: a respawned worker takes its slot again and moves nobody', async (t) => {
  const { primary, port } = await balanced(t, { workers: 3 })
  const before = await workersOf(port, 60)
  const victim = before[0]
  signal(victim, 'SIGKILL')
  assert.equal(await primary.next('exit'), victim)
  const after = await workersOf(port, 60)
  const successor = after[0]
  assert.notEqual(successor, victim)
  assert.deepEqual(
    after,
    before.map((worker) => (worker === victim ? successor : worker)),
  )
})

test('guarantee 4, exactly one owner: what a stuck worker had not adopted is answered by its successor', async (t) => {
  const { primary, port } = await balanced(t)
  const workers = await workersOf(port, 60)
  const stuck = workers[0]
  const clients = workers.flatMap((worker, n) => (worker === stuck ? [loopback(n)] : []))
  await request(port, { localAddress: clients[0], path: '/block/60000' })
  const answers = clients.map((localAddress) =>
    request(port, { localAddress, body: localAddress, method: 'POST', path: '/echo' }),
  )
  // In flight to the stuck worker, in its socket: it must be found there when the worker dies.
  await until(async () => {
    const { slots } = await primary.call('stats')
    return slots.some(({ pid, inFlight }) => pid === stuck && inFlight === clients.length)
  })
  signal(stuck, 'SIGKILL')
  for (const [n, { status, body }] of (await Promise.all(answers)).entries()) {
    assert.deepEqual([status, body], [200, clients[n]])
  }
  const stats = await primary.call('stats')
  assert.equal(stats.adopted, workers.length + 1 + clients.length)
  assert.equal(stats.redelivered, clients.length)
  assert.equal(stats.refused, 0)
})

test('guarantee 5, not a byte lost: in any segmentation, before and after the hand-off', async (t) => {
  const { port } = await balanced(t)
  const body = Buffer.alloc(100_000, 'The quick brown fox jumps over the lazy dog. ').toString()
  const bytes = `POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  const cuts = [
    // All at once; byte by byte through the head; in three.
    [bytes.length],
    [...Array.from({ length: 120 }, (_, n) => n + 1), bytes.length],
    [10, 1500, 60_000, bytes.length],
  ]
  for (const cut of cuts) {
    const socket = await connect(port, loopback(cut.length))
    socket.setNoDelay(true)
    let from = 0
    for (const to of cut) {
      await new Promise((resolve) => socket.write(bytes.slice(from, to), resolve))
      from = to
    }
    const answer = await readAll(socket)
    assert.ok(answer.startsWith('HTTP/1.1 200'), answer.slice(0, 200))
    const echoed = answer
      .slice(answer.indexOf('\r\n\r\n') + 4)
      // The answer is chunked.
      .replace(/(^|\r\n)[0-9a-f]+\r\n/g, '')
      .trimEnd()
    assert.equal(echoed, body.trimEnd())
  }
})

test('guarantee 6, isolation: a stuck worker delays its own clients only', async (t) => {
  const { port } = await balanced(t)
  const workers = await workersOf(port, 60)
  const stuck = workers[0]
  await request(port, { localAddress: loopback(0), path: '/block/60000' })
  let answered = false
  request(port, { localAddress: loopback(0) }).then(
    () => {
      answered = true
    },
    () => {},
  )
  const others = workers.flatMap((worker, n) => (worker === stuck ? [] : [n]))
  await parallel(200, 8, async (n) => {
    const client = others[n % others.length]
    const { body } = await request(port, { localAddress: loopback(client) })
    assert.equal(Number(body), workers[client])
  })
  assert.equal(answered, false)
})

test("guarantee 6, isolation: the primary's event loop blocked, everybody is served", async (t) => {
  const { primary, port } = await balanced(t)
  let blocked = true
  const block = primary.call('block', 5000).then(() => {
    blocked = false
  })
  await primary.next('blocking')
  await parallel(100, 8, async (n) => {
    const { status } = await request(port, { localAddress: loopback(n) })
    assert.equal(status, 200)
  })
  assert.equal(blocked, true, 'the requests waited for the event loop')
  await block
})

test('guarantee 9, make before break: the old worker serves until the new one has shaken hands', async (t) => {
  const primary = start(t, 'handover.js')
  const { port, pid: old } = await primary.call('start')
  assert.equal(Number((await request(port)).body), old)
  // The table says so from now on, but the new worker listens only when told.
  const successor = await primary.call('replace')
  for (let n = 0; n < 20; n++) assert.equal(Number((await request(port)).body), old)
  await primary.call('letListen')
  await until(async () => Number((await request(port)).body) === successor)
  for (let n = 0; n < 20; n++) assert.equal(Number((await request(port)).body), successor)
})

test('guarantee 9, make before break: a rolling replacement of cluster workers refuses nobody', async (t) => {
  // Far less than the 10 s for which the place of a worker that died is kept.
  const { primary, port } = await balanced(t, { workers: 3, options: { maxRetries: 30, retryDelay: 100 } })
  let running = true
  const clients = Array.from({ length: 8 }, async (_, n) => {
    for (let round = 0; running; round++) {
      assert.equal((await request(port, { localAddress: loopback(n + 8 * (round % 10)) })).status, 200)
    }
  })
  for (const old of await primary.call('pids')) {
    const successor = await primary.call('fork')
    await until(async () => (await primary.call('stats')).slots.some(({ pid }) => pid === successor))
    await primary.call('disconnect', old)
    await until(async () => (await primary.call('stats')).slots.every(({ pid }) => pid !== old))
  }
  // Everybody once more, now that all are replaced.
  const { adopted } = await primary.call('stats')
  await until(async () => (await primary.call('stats')).adopted > adopted + 80)
  running = false
  await Promise.all(clients)
  const { slots, refused } = await primary.call('stats')
  assert.deepEqual([slots.length, refused], [3, 0])
})

test('guarantee 1, sticky: a clock that is set costs a worker that died no slot', async (t) => {
  const options = { maxRetries: 100_000, retryDelay: 1 }
  const { primary, port } = await balanced(t, { workers: 2, options })
  const workers = await workersOf(port, 20)
  const [killed] = workers
  const kept = workers.find((pid) => pid !== killed)
  signal(killed, 'SIGKILL')
  await primary.next('exit')
  await primary.call('setClock', 3_600_000)
  // They wait for the successor, so the table is read every millisecond.
  const after = await workersOf(port, 20)
  for (const [client, pid] of workers.entries()) assert.equal(after[client] === kept, pid === kept, `client ${client}`)
})

test('guarantee 10, clean ends: close() stops accepting, settles what waits, ends thread and channels', async (t) => {
  const { primary, port } = await balanced(t, { workers: 1, options: { maxRetries: 1, retryDelay: 1500 } })
  const [worker] = await workersOf(port, 1)
  await request(port, { path: '/block/60000' })
  const waiting = await connect(port)
  waiting.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  await until(async () => (await primary.call('stats')).slots[0].inFlight === 1)
  const closed = primary.call('close')
  await until(() =>
    connect(port).then(
      (socket) => void socket.destroy(),
      (error) => error.code === 'ECONNREFUSED',
    ),
  )
  // It still waits for its worker, and finds the successor.
  signal(worker, 'SIGKILL')
  assert.match(await readAll(waiting), /^HTTP\/1\.1 200/)
  await closed
  assert.equal(taskNames(primary.pid).includes('sticky-listen'), false)
  const stats = await primary.call('stats')
  assert.deepEqual([stats.waiting, stats.refused], [0, 0])
})

test('guarantee 10, clean ends: a worker let go ends a kept connection with its next response', async (t) => {
  const { primary, port } = await balanced(t, { workers: 2 })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const first = await request(port, { agent })
  assert.equal(first.headers.connection, 'keep-alive')
  await primary.call('disconnect', Number(first.body))
  await primary.call('fork')
  // Until the worker knows, it serves as before; always the same one, as the connection is.
  const last = await until(async () => {
    const answer = await request(port, { agent })
    assert.equal(answer.body, first.body)
    return answer.headers.connection === 'close' && answer
  })
  assert.equal(last.status, 200)
  assert.notEqual((await request(port, { agent })).body, first.body)
})

test('guarantee 10, clean ends: no thread outlives its environment, in worker_threads too', async (t) => {
  const primary = start(t, 'threads.js')
  await primary.call('cycle', 1)
  const before = await primary.call('count')
  await primary.call('cycle', 20)
  assert.deepEqual(await primary.call('count'), before)
})

test('guarantee 11, private: the channel has no name that another user could open', async (t) => {
  const { primary } = await balanced(t)
  const inodes = fs.readdirSync(`/proc/${primary.pid}/fd`).flatMap((fd) => {
    try {
      return fs.readlinkSync(`/proc/${primary.pid}/fd/${fd}`).match(/^socket:\[(\d+)\]$/)?.[1] ?? []
    } catch {
      return []
    }
  })
  const unix = fs
    .readFileSync(`/proc/${primary.pid}/net/unix`, 'utf8')
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => inodes.includes(fields[6]))
  // Two IPC channels and one to the test, and two of ours at least.
  assert.ok(unix.length >= 5, `${unix.length} unix sockets`)
  for (const [, , , flags, , , , path] of unix) {
    assert.equal(path, undefined)
    const ACCEPTS_CONNECTIONS = 0x10000
    assert.equal(Number.parseInt(flags, 16) & ACCEPTS_CONNECTIONS, 0)
  }
  const listening = ['tcp', 'tcp6'].flatMap((family) =>
    fs
      .readFileSync(`/proc/${primary.pid}/net/${family}`, 'utf8')
      .split('\n')
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter(([, , , state, , , , , , inode]) => state === '0A' && inodes.includes(inode)),
  )
  // Once for each slot where the kernel steers.
  assert.equal(listening.length, kernelSteers ? 2 : 1)
  const at = new Set(listening.map(([, local]) => local))
  assert.equal(at.size, 1, 'the balancer listens on its port and on nothing else')
})

/** The names of a process's threads. */
function taskNames(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).map((id) => fs.readFileSync(`/proc/${pid}/task/${id}/comm`, 'utf8').trim())
}
