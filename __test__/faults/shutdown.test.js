'use strict'

// Ends: of the whole, in good order, and of the primary in disorder.

const assert = require('node:assert/strict')
const net = require('node:net')
const { once } = require('node:events')
const { test } = require('node:test')
const { connect, readAll, request, until } = require('../support/client')
const { signal, start } = require('../support/process')

const SLOW = 'GET /slow/1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'

async function primaryThatEnds(t) {
  const primary = start(t, 'ending-primary.js')
  const { port } = await primary.next('listening')
  await until(() => request(port).then(({ status }) => status === 200))
  return { primary, port }
}

test('fault 11, SIGTERM: requests in flight finish, the port is free at once, the process exits by itself', async (t) => {
  const { primary, port } = await primaryThatEnds(t)
  const sockets = await Promise.all(Array.from({ length: 10 }, () => connect(port)))
  for (const socket of sockets) socket.write(SLOW)
  await until(async () => (await primary.call('stats')).adopted === 1 + sockets.length)
  signal(primary.pid, 'SIGTERM')
  await primary.next('closed')
  const another = net.createServer().listen(port, '127.0.0.1')
  await once(another, 'listening')
  another.close()
  for (const socket of sockets) assert.match(await readAll(socket), /^HTTP\/1\.1 200/)
  assert.deepEqual(await primary.exited, { code: 0, signal: null })
})

for (const [how, code] of [
  ['exit', 7],
  ['throw', 1],
]) {
  test(`fault 10, ${how} in mid-load: the process ends promptly, with its own code`, async (t) => {
    const { primary, port } = await primaryThatEnds(t)
    let running = true
    const clients = Array.from({ length: 16 }, async () => {
      while (running) await request(port).catch(() => {})
    })
    await until(async () => (await primary.call('stats')).adopted > 500)
    primary.call('end', how).catch(() => {})
    assert.deepEqual(await primary.exited, { code, signal: null })
    running = false
    await Promise.all(clients)
    if (how === 'throw') assert.match(primary.stderr, /Error: on purpose/)
  })
}

test('fault 11, the primary is killed: its workers serve what they have, and leave', async (t) => {
  const { primary, port } = await primaryThatEnds(t)
  const socket = await connect(port)
  const { pids } = await primary.call('workers')
  signal(primary.pid, 'SIGKILL')
  await until(() => pids.every((pid) => !isAlive(pid)))
  socket.destroy()
})

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
