'use strict'

// Processes that run out of file descriptors, and get them back.

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const { test } = require('node:test')
const { setTimeout: wait } = require('node:timers/promises')
const { connect, loopback, readAll, request, until } = require('../support/client')
const { kernelSteers } = require('../support/steering')
const { balanced, fdCount, settledFdCount, signal, workersOf } = require('../support/process')

const REQUEST = 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'
// The hard limit stays, so that the soft one can be raised again without privileges.
const limitTo = (pid, files) => execFileSync('prlimit', ['--pid', pid, `--nofile=${files}:`])

// With it as the limit there is not a single one.
function lowestFree(pid) {
  const open = new Set(fs.readdirSync(`/proc/${pid}/fd`))
  let lowest = 0
  while (open.has(`${lowest}`)) lowest++
  return lowest
}

// A worker notices within so many connections that its limit was changed.
const NOTICED_AFTER = 64

// Clock ticks are 1/100 s on Linux for all that /proc tells.
function cpuSeconds(pid) {
  const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8')
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13)
    .map(Number)
  return (user + system) / 100
}

test('fault 8, no descriptors in the primary: shed, next to no CPU, recovered when they return', async (t) => {
  const { primary, port } = await balanced(t, { workers: 1 })
  const [worker] = await workersOf(port, 1)
  // Connections stay in the primary while nobody takes them.
  signal(worker, 'SIGSTOP')
  limitTo(primary.pid, (await settledFdCount(primary.pid)) + 20)
  const outcomes = []
  const sockets = []
  for (let n = 0; n < 60; n++) {
    const socket = await connect(port, loopback(n))
    socket.write(REQUEST)
    sockets.push(socket)
    outcomes.push(
      readAll(socket).then(
        (text) => (text ? 'answered' : 'shed'),
        () => 'shed',
      ),
    )
  }
  await until(async () => (await primary.call('stats')).refused >= 20)

  // More keep coming: it must not spin.
  const [cpu, began] = [cpuSeconds(primary.pid), performance.now()]
  for (let n = 0; n < 20; n++) {
    const socket = await connect(port)
    socket.on('error', () => {})
    socket.on('close', () => {})
    await wait(100)
  }
  const share = (cpuSeconds(primary.pid) - cpu) / ((performance.now() - began) / 1000)
  t.diagnostic(`${(share * 100).toFixed(1)} % of a core without descriptors`)
  assert.ok(share < 0.05, `${share} of a core`)

  limitTo(primary.pid, 1024)
  signal(worker, 'SIGCONT')
  assert.equal((await request(port)).status, 200)
  const ends = await Promise.all(outcomes)
  // Every one that the primary had taken in was answered, every other was closed at once.
  const { accepted, adopted, refused, gone, waiting } = await primary.call('stats')
  assert.equal(adopted + refused + gone + waiting, accepted)
  assert.ok(ends.filter((end) => end === 'answered').length >= 15, ends.join())
})

test('fault 8, no descriptors in the primary: workers that accept themselves go on', {
  skip: !kernelSteers,
}, async (t) => {
  const { primary, port } = await balanced(t)
  const pids = await primary.call('pids')
  limitTo(primary.pid, await settledFdCount(primary.pid))
  // For longer than anything takes that the primary does now and then.
  for (let n = 0, began = performance.now(); performance.now() - began < 3000; n++) {
    const { status, body } = await request(port, { localAddress: loopback(n % 200) })
    assert.ok(status === 200 && pids.includes(Number(body)))
  }
})

test('fault 8, no descriptors in the primary: who waits for a stuck worker is let go when patience ends', {
  skip: !kernelSteers,
}, async (t) => {
  const { primary, port } = await balanced(t, { options: { maxRetries: 4, retryDelay: 200 } })
  const [stuck] = await workersOf(port, 1)
  await settledFdCount(primary.pid)
  limitTo(primary.pid, lowestFree(primary.pid))
  signal(stuck, 'SIGSTOP')
  const ask = () => request(port, { localAddress: loopback(0) })
  const ends = Array.from({ length: 100 }, () => ask().catch(({ code }) => code))
  assert.deepEqual(new Set(await Promise.all(ends)), new Set(['ECONNRESET']))
  assert.equal((await primary.call('stats')).refused, ends.length)

  limitTo(primary.pid, 1024)
  signal(stuck, 'SIGCONT')
  assert.equal((await ask()).status, 200)
})

test('fault 8, silent peers take all descriptors of the primary: the longest silent make room, nobody else is shed', async (t) => {
  const { primary, port } = await balanced(t, { workers: 1, options: { behindProxy: true } })
  await workersOf(port, 1)
  const SILENT = 40
  limitTo(primary.pid, (await settledFdCount(primary.pid)) + SILENT)
  const silent = []
  for (let n = 0; n < 3 * SILENT; n++) {
    const socket = await connect(port, loopback(n))
    socket.on('error', () => {})
    silent.push(socket)
  }
  for (let n = 0; n < 20; n++) assert.equal((await request(port)).status, 200)
  const { refused, identifying } = await primary.call('stats')
  assert.equal(refused, 0)
  assert.ok(identifying <= SILENT, `${identifying} are still looked at`)
  for (const socket of silent) socket.destroy()
})

test('fault 8, no descriptors in a worker: what it could not receive waits, and none vanishes', async (t) => {
  const { primary, port } = await balanced(t, { workers: 1 })
  const [worker] = await workersOf(port, 1)
  limitTo(worker, fdCount(worker) + 10)
  await workersOf(port, NOTICED_AFTER)
  const sockets = await Promise.all(Array.from({ length: 100 }, (_, n) => connect(port, loopback(n))))
  // Nobody says a word yet, so what the worker has it keeps.
  await until(async () => (await primary.call('stats')).redelivered > 100)
  const cpu = [primary.pid, worker].map(cpuSeconds)
  const began = performance.now()
  await wait(1000)
  const seconds = (performance.now() - began) / 1000
  const shares = [primary.pid, worker].map((pid, n) => (cpuSeconds(pid) - cpu[n]) / seconds)
  t.diagnostic(`primary ${(shares[0] * 100).toFixed(1)} %, worker ${(shares[1] * 100).toFixed(1)} % of a core`)
  for (const share of shares) assert.ok(share < 0.05, `${shares} of a core`)

  limitTo(worker, 1024)
  for (const socket of sockets) socket.write(REQUEST)
  for (const socket of sockets) assert.match(await readAll(socket), /^HTTP\/1\.1 200/)
  const { adopted, refused } = await primary.call('stats')
  assert.deepEqual({ adopted, refused }, { adopted: 101 + NOTICED_AFTER, refused: 0 })
})

test('fault 8, no descriptors in a worker: its death hands what it could not receive to the next', async (t) => {
  const { primary, port } = await balanced(t, { workers: 1 })
  const [worker] = await workersOf(port, 1)
  limitTo(worker, fdCount(worker) + 10)
  await workersOf(port, NOTICED_AFTER)
  const { adopted } = await primary.call('stats')
  const sockets = await Promise.all(Array.from({ length: 50 }, (_, n) => connect(port, loopback(n))))
  await until(async () => (await primary.call('stats')).redelivered > 50)
  const taken = (await primary.call('stats')).adopted - adopted
  signal(worker, 'SIGKILL')
  for (const socket of sockets) socket.write(REQUEST)
  const answers = await Promise.all(sockets.map((socket) => readAll(socket).catch(() => '')))
  const answered = answers.filter((answer) => answer.startsWith('HTTP/1.1 200'))
  assert.equal(answered.length, sockets.length - taken)
})
