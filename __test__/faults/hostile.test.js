'use strict'

// Clients that reset, vanish, or do not stop sending.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { connect, loopback, parallel, readAll, request, until } = require('../support/client')
const { balanced, fdCount, settledFdCount, signal, workersOf } = require('../support/process')

test('fault 7, hostile peers: 10,000 resets right after connect harm nobody', async (t) => {
  const { primary, port } = await balanced(t)
  const pids = await primary.call('pids')
  // Those who have served a client have all descriptors that they need for that.
  assert.deepEqual(new Set(await workersOf(port, 20)), new Set(pids))
  const all = [primary.pid, ...pids]
  const before = []
  for (const pid of all) before.push(await settledFdCount(pid))
  await parallel(10_000, 32, async (n) => {
    const socket = await connect(port, loopback(n % 500))
    socket.on('error', () => {})
    socket.resetAndDestroy()
  })
  assert.equal((await request(port)).status, 200)
  assert.deepEqual(await primary.call('pids'), pids)
  await until(() => all.every((pid, n) => fdCount(pid) <= before[n]))
})

test('fault 7, hostile peers: half-open and silent connections cost the primary nothing', async (t) => {
  const { primary, port } = await balanced(t)
  const fds = await settledFdCount(primary.pid)
  const sockets = await Promise.all(Array.from({ length: 300 }, (_, n) => connect(port, loopback(n))))
  await until(async () => (await primary.call('stats')).adopted === sockets.length)
  await until(() => fdCount(primary.pid) <= fds)
  // A client that has said all it will say is still answered.
  for (const socket of sockets) socket.end('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  for (const socket of sockets) assert.match(await readAll(socket), /^HTTP\/1\.1 200/)
})

for (const [status, name, prepare] of [
  [502, 'Bad Gateway', emptySlot],
  [503, 'Service Unavailable', fullSlot],
]) {
  test(`fault 7, hostile peers: the ${status} reaches a client that is still uploading 200 kB`, async (t) => {
    const port = await prepare(t)
    await parallel(50, 4, async () => {
      const socket = await connect(port)
      socket.write(`POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n`)
      for (let sent = 0; sent < 200_000; sent += 10_000) socket.write(Buffer.alloc(10_000))
      socket.end()
      const answer = await readAll(socket)
      assert.ok(answer.startsWith(`HTTP/1.0 ${status} ${name}\r\n`), answer)
      assert.match(answer, new RegExp(`\r\n\r\n${status} ${name}: .*\n$`))
    })
  })
}

async function emptySlot(t) {
  const { primary, port } = await balanced(t, { workers: 0, options: { maxRetries: 1, retryDelay: 10 } })
  assert.deepEqual((await primary.call('stats')).slots, [])
  return port
}

async function fullSlot(t) {
  const { primary, port } = await balanced(t, { workers: 1, options: { maxPending: 1 } })
  const [worker] = await workersOf(port, 1)
  signal(worker, 'SIGSTOP')
  request(port).catch(() => {})
  await until(async () => (await primary.call('stats')).slots[0].inFlight === 1)
  return port
}
