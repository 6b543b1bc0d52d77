'use strict'

// The primary's own threads, seen from the kernel: which of them touches connections.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { loopback, parallel, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { fdCount, settledFdCount, start } = require('./support/process')
const { kernelSteers } = require('./support/steering')
const { has } = require('./support/tools')

const CONNECTIONS = 200

test('no connection is handled in JavaScript in the primary', async (t) => {
  if (!has(t, 'strace')) return
  const primary = start(t, 'primary.js', { args: [{ workers: 2 }] })
  const { port } = await primary.call('listen')
  await until(async () => (await primary.call('stats')).slots.filter(({ pid }) => pid).length === 2)

  const threads = new Map(
    fs.readdirSync(`/proc/${primary.pid}/task`).map((id) => {
      return [id, fs.readFileSync(`/proc/${primary.pid}/task/${id}/comm`, 'utf8').trim()]
    }),
  )
  const log = path.join(directory(t), 'strace')
  const strace = spawn('strace', ['-f', '-qq', '-e', 'trace=accept4,sendmsg,close', '-o', log, '-p', primary.pid])
  t.after(() => strace.kill('SIGKILL'))
  // It traces from when it is there as the tracer.
  await until(
    () =>
      !/TracerPid:\t0/.test(fs.readFileSync(`/proc/${primary.pid}/task/${[...threads.keys()].at(-1)}/status`, 'utf8')),
  )

  const fds = await settledFdCount(primary.pid)
  await parallel(CONNECTIONS, 8, async (n) => {
    assert.equal((await request(port, { localAddress: loopback(n) })).status, 200)
  })
  await until(async () => (await primary.call('stats')).adopted === CONNECTIONS)
  // The primary's copies are closed soon after that.
  await until(() => fdCount(primary.pid) <= fds)
  strace.kill('SIGINT')
  await once(strace, 'exit')

  const calls = fs
    .readFileSync(log, 'utf8')
    .split('\n')
    .map((line) => line.match(/^(\d+) +(\w+)\((.*)$/))
    .filter(Boolean)
    .map(([, thread, name, rest]) => ({ thread: threads.get(thread), name, rest }))
  const accepted = calls.filter(({ name, rest }) => name === 'accept4' && !rest.includes('EAGAIN'))
  const passed = calls.filter(({ name, rest }) => name === 'sendmsg' && rest.includes('SCM_RIGHTS'))
  if (kernelSteers) {
    assert.deepEqual([accepted, passed], [[], []], 'the primary sees no connection')
    return
  }
  assert.equal(accepted.length, CONNECTIONS)
  assert.ok(passed.length > 0)
  for (const { thread, name } of [...accepted, ...passed]) assert.equal(thread, 'sticky-listen', name)
  // What JavaScript does meanwhile is to talk to this test: no descriptors opened or closed.
  const closed = calls.filter(({ name }) => name === 'close')
  assert.equal(closed.filter(({ thread }) => thread === 'sticky-listen').length, CONNECTIONS)
  assert.equal(closed.length, CONNECTIONS)
})
