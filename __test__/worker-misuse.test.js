'use strict'

// What `listen(server)` makes of wrong calls.

const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { request } = require('./support/client')
const { directory } = require('./support/places')
const { start } = require('./support/process')
const { TIMEOUT, balancing, listening, pair, worker } = require('./support/worker-server')

test('listen() outside a worker: ERR_STICKY_NOT_A_WORKER', TIMEOUT, async (t) => {
  const program = `
    const sticky = require(${JSON.stringify(path.join(__dirname, '..'))})
    const server = require('node:net').createServer()
    try {
      sticky.listen(server)
    } catch ({ name, code, message }) {
      console.log(JSON.stringify({ name, code, message, listening: server.listening }))
    }`
  const expected = {
    name: 'Error',
    code: 'ERR_STICKY_NOT_A_WORKER',
    message: JSON.parse(spawnSync(process.execPath, ['-e', program], { encoding: 'utf8' }).stdout).message,
    listening: false,
  }
  assert.match(expected.message, /child_process\.fork/)
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8' })
  assert.deepEqual([JSON.parse(stdout), stderr], [expected, ''])

  await t.test('in a thread, which has no channel, though its process has one', async (t) => {
    const fixture = await worker(t, 'net')
    const inThread = JSON.parse(await fixture.call('inThread', program))
    const { message, ...rest } = expected
    assert.deepEqual({ ...inThread, message }, { ...rest, message })
    assert.match(
      inThread.message,
      /but a thread of worker_threads has no IPC channel .* in the main thread of a process /,
    )
  })

  await t.test('in a worker that is disconnected', async (t) => {
    const file = path.join(directory(t), 'code')
    const fixture = await worker(t, 'net')
    await fixture.call('disconnectThen', 'listen', 'server', file)
    assert.deepEqual(await fixture.exited, { code: 0, signal: null })
    assert.equal(fs.readFileSync(file, 'utf8'), 'ERR_STICKY_NOT_A_WORKER')
  })
})

test('listen() of what is no server, or with wrong options, throws as Node does', TIMEOUT, async (t) => {
  const fixture = start(t, 'worker-server.js')
  const server = 'The "server" argument must be an instance of net.Server. Received '
  const name = 'The "options.name" property must be of type string. Received type number (5)'
  for (const [what, code, message] of [
    ['nothing', 'ERR_INVALID_ARG_TYPE', `${server}undefined`],
    ['null', 'ERR_INVALID_ARG_TYPE', `${server}null`],
    ['object', 'ERR_INVALID_ARG_TYPE', `${server}an instance of Object`],
    ['port', 'ERR_INVALID_ARG_TYPE', `${server}type number (8080)`],
    ['listener', 'ERR_INVALID_ARG_TYPE', `${server}function web`],
    [
      'balancer',
      'ERR_INVALID_ARG_TYPE',
      'The "server" argument must be a server that serves clients itself. Received an instance of Balancer. A balancer ' +
        'listens in the primary process, by its own method: balancer.listen(port)',
    ],
    ['numberAsName', 'ERR_INVALID_ARG_TYPE', name],
    ['emptyName', 'ERR_INVALID_ARG_VALUE', "The property 'options.name' must not be empty. Received ''"],
    [
      'textAsOptions',
      'ERR_INVALID_ARG_TYPE',
      `The "options" argument must be of type object. Received type string ('default')`,
    ],
    [
      'callback',
      'ERR_INVALID_ARG_TYPE',
      'The "options" argument must be of type object. Received an anonymous function. To be called when the server listens: ' +
        "server.once('listening', callback)",
    ],
  ]) {
    await assert.rejects(fixture.call('misuse', what), (error) => {
      assert.deepEqual([error.name, error.code], ['TypeError', code], what)
      assert.ok(error.message.startsWith(`${message}. See `), error.message)
      return true
    })
  }
  // Nothing of it has taken the name.
  await fixture.call('create', 'server', 'net')
  assert.equal((await fixture.call('listen', 'server')).returned, true)
})

test('a server that listens already throws ERR_SERVER_ALREADY_LISTEN and goes on', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  const message = /^Listen method has been called more than once without closing\./
  const expected = { name: 'Error', code: 'ERR_SERVER_ALREADY_LISTEN', message }
  await assert.rejects(fixture.call('listen', 'server'), expected)
  await assert.rejects(fixture.call('listen', 'server', { name: 'another' }), expected)
  // As well as Node's own listen().
  await assert.rejects(fixture.call('listenAlone', 'server'), expected)
  assert.equal((await request(port)).body, `${fixture.pid}`)

  await fixture.call('create', 'alone', 'http')
  const alone = await fixture.call('listenAlone', 'alone')
  await assert.rejects(fixture.call('listen', 'alone', { name: 'alone' }), expected)
  assert.equal((await request(alone.port)).body, `${fixture.pid}`)
})

test('a name that another server has throws ERR_STICKY_NAME_TAKEN, until that one closes', TIMEOUT, async (t) => {
  const fixture = await listening(t, 'http')
  await fixture.call('create', 'second', 'http')
  await assert.rejects(fixture.call('listen', 'second'), {
    name: 'Error',
    code: 'ERR_STICKY_NAME_TAKEN',
    message: /A server named 'default' already takes/,
  })
  const { listening: listens, events } = await fixture.call('look', 'second')
  assert.deepEqual([listens, events], [false, []])
  await fixture.call('close', 'server')
  assert.equal((await fixture.call('listen', 'second')).returned, true)
  await assert.rejects(fixture.call('listen', 'server', { name: 'default' }), { code: 'ERR_STICKY_NAME_TAKEN' })
  assert.equal((await fixture.call('listen', 'server', { name: 'another' })).returned, true)
})

test('an unknown option is a warning, and the server listens', TIMEOUT, async (t) => {
  const fixture = await worker(t, 'http')
  assert.equal((await fixture.call('listen', 'server', { nmae: 'x' })).returned, true)
  const { name, code, message } = await fixture.next('warning')
  assert.deepEqual([name, code], ['StickyListenWarning', 'STICKY_UNKNOWN_OPTION'])
  assert.match(message, /"nmae".*"name"/)
  const balancer = await balancing(t, [fixture])
  assert.equal((await request(balancer.address().port)).body, `${fixture.pid}`)
})
