'use strict'

// How a worker's server comes to its end, and how the worker does: by close(), an exception, a disconnection.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const readline = require('node:readline')
const { test } = require('node:test')
const { connect, loopback, readAll, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { balanced, signal, start } = require('./support/process')
const { KINDS, PATIENT, TIMEOUT, balancing, listening, pair, served, worker } = require('./support/worker-server')

const LINUX = process.platform === 'linux'

// --- close() -------------------------------------------------------------------------------------

for (const of of Object.keys(KINDS)) {
  test(`in ${of}, close() waits for a slow request and takes no new one`, TIMEOUT, async (t) => {
    const fixture = await listening(t, 'http', {}, {}, of)
    const balancer = await balancing(t, [fixture], { maxRetries: 1, retryDelay: 50 })
    await served(balancer)
    const { port } = balancer.address()
    let answered = false
    const slow = request(port, { path: '/hold' }).finally(() => {
      answered = true
    })
    await fixture.next('request')
    assert.deepEqual(await fixture.call('close', 'server'), { listening: false })
    // The primary learns it while the request is still held.
    await until(() => balancer.stats().slots[0].pid === null)
    assert.equal((await request(port)).status, 502)
    const { address, connections, events } = await fixture.call('look', 'server')
    assert.deepEqual([address, connections, events.map(([event]) => event)], [null, 1, ['listening']])
    assert.equal(answered, false)
    await fixture.call('release')
    assert.deepEqual([(await slow).status, (await slow).body], [200, `${fixture.pid}`])
    assert.deepEqual(await fixture.next('closed'), { id: 'server' })
  })
}

test('after close() the slot waits for the replacement', TIMEOUT, async (t) => {
  const [old, replacement] = await Promise.all([listening(t, 'http'), worker(t, 'http')])
  const slots = [old]
  const balancer = await balancing(t, slots)
  const { port } = balancer.address()
  assert.equal((await request(port)).body, `${old.pid}`)
  await old.call('close', 'server')
  await until(() => balancer.stats().slots[0].pid === null)
  const waiting = Array.from({ length: 5 }, () => request(port))
  await until(() => balancer.stats().waiting === 5)
  slots[0] = replacement
  await replacement.call('listen', 'server')
  for (const { status, body } of await Promise.all(waiting))
    assert.deepEqual([status, body], [200, `${replacement.pid}`])
})

test('what a closing server had not taken goes to another worker', TIMEOUT, async (t) => {
  const [closing, replacement] = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  const slots = [closing]
  const balancer = await balancing(t, slots)
  const { port } = balancer.address()
  await served(balancer)
  const flag = path.join(directory(t), 'flag')
  closing.call('blockThenClose', 'server', flag)
  await closing.next('blocked')
  const answers = Array.from({ length: 5 }, () => request(port))
  await until(() => balancer.stats().slots[0].inFlight === 5)
  slots[0] = replacement
  fs.writeFileSync(flag, '')
  for (const { status, body } of await Promise.all(answers))
    assert.deepEqual([status, body], [200, `${replacement.pid}`])
  assert.equal(balancer.stats().redelivered, 5)
})

test('a closed server can listen again, in close() too, and takes connections again', TIMEOUT, async (t) => {
  const { balancer, fixture, port } = await pair(t, 'http')
  for (let n = 0; n < 3; n++) {
    assert.equal((await request(port)).body, `${fixture.pid}`)
    await fixture.call('close', 'server')
    await fixture.next('closed')
    const { returned } = await fixture.call('listen', 'server')
    assert.equal(returned, true)
  }
  assert.equal((await request(port)).body, `${fixture.pid}`)
  await fixture.call('closeAndListenAgain', 'server')
  assert.equal(await fixture.next('again'), true)
  assert.equal((await request(port)).body, `${fixture.pid}`)
  const { address, events, listening } = await fixture.call('look', 'server')
  assert.deepEqual([listening, address], [true, balancer.address()])
  // Nobody is told twice.
  const expected = Array.from({ length: 9 }, (_, n) => (n % 2 === 0 ? 'listening' : 'close'))
  assert.deepEqual(
    events.map(([event]) => event),
    expected,
  )
  assert.deepEqual(events[8], ['listening', balancer.address()])
})

test('close() before a balancer is there calls back, and nothing is left of it', TIMEOUT, async (t) => {
  const fixture = await worker(t, 'http')
  const before = await fixture.call('listenersOfProcess')
  await fixture.call('listen', 'server')
  await fixture.call('close', 'server')
  assert.deepEqual(await fixture.next('closed'), { id: 'server' })
  assert.deepEqual(await fixture.call('listenersOfProcess'), before)
  await fixture.call('close', 'server')
  assert.deepEqual(await fixture.next('closed'), { id: 'server', code: 'ERR_SERVER_NOT_RUNNING' })
})

test('asynchronous disposal closes the server', TIMEOUT, async (t) => {
  const { balancer, fixture } = await pair(t, 'http')
  await fixture.call('dispose', 'server')
  const { listening, events } = await fixture.call('look', 'server')
  assert.deepEqual([listening, events.map(([event]) => event)], [false, ['listening', 'close']])
  await until(() => balancer.stats().slots[0].pid === null)
})

for (const when of ['at once', 'at the first connection']) {
  test(`a worker with nothing but a server that it closes ${when} ends by itself`, TIMEOUT, async (t) => {
    const lone = start(t, 'worker-lone.js', { args: [when] })
    const balancer = await balancing(t, [lone], { maxRetries: 1, retryDelay: 50 })
    if (when === 'at the first connection') {
      await served(balancer)
      assert.equal(await readAll(await connect(balancer.address().port)), `${lone.pid}`)
    }
    assert.deepEqual(await lone.exited, { code: 0, signal: null })
    assert.equal(lone.stderr, '')
  })
}

// --- Faults and ends -----------------------------------------------------------------------------

test("what a 'connection' listener throws is an uncaughtException, and others are served", TIMEOUT, async (t) => {
  const fixture = start(t, 'worker-server.js')
  await fixture.call('surviveExceptions')
  // They are here before the server is: all come to it in one go.
  const balancer = await balancing(t, [fixture])
  const { port } = balancer.address()
  const clients = await Promise.all(Array.from({ length: 8 }, () => connect(port)))
  const bad = [clients[0], clients[3], clients[7]]
  const at = bad.map(({ localPort }) => localPort)
  await fixture.call('create', 'server', 'throwing', { at })
  await fixture.call('listen', 'server')
  await Promise.all(
    clients.map(async (client) => {
      assert.equal(await readAll(client), bad.includes(client) ? '' : `${fixture.pid}`)
    }),
  )
  const thrown = [await fixture.next('exception'), await fixture.next('exception'), await fixture.next('exception')]
  assert.deepEqual(thrown.map(({ message }) => message).sort(), at.map((port) => `no service for ${port}`).sort())
  assert.ok(thrown.every(({ origin }) => origin === 'uncaughtException'))
  // And it goes on.
  assert.equal(await readAll(await connect(port)), `${fixture.pid}`)
})

test("what a 'connection' listener throws ends the worker as ever, if nobody catches it", TIMEOUT, async (t) => {
  const fixture = start(t, 'worker-server.js')
  const balancer = await balancing(t, [fixture])
  const client = await connect(balancer.address().port)
  const { localPort } = client
  await fixture.call('create', 'server', 'throwing', { at: [localPort] })
  await fixture.call('listen', 'server')
  assert.deepEqual(await fixture.exited, { code: 1, signal: null })
  assert.match(fixture.stderr, new RegExp(`Error: no service for ${localPort}\n +at .*worker-server\\.js`))
  client.destroy()
})

const DISCONNECTS = {
  'a child process': (fixture) => fixture.child.disconnect(),
  'a worker of node:cluster': (fixture) => fixture.worker.disconnect(),
}

for (const [of, disconnect] of Object.entries(DISCONNECTS)) {
  test(`guarantee 10, clean ends: ${of} that is disconnected serves out its connections`, TIMEOUT, async (t) => {
    const [leaving, staying] = [KINDS[of](t, 'worker-echo.js'), KINDS[of](t, 'worker-echo.js')]
    const slots = [leaving]
    const balancer = await balancing(t, slots, { maxRetries: 1000, retryDelay: 15 })
    const { port } = balancer.address()
    const open = await connect(port)
    const lines = readLines(open)
    assert.equal(await lines(), `${leaving.pid}`)
    disconnect(leaving)
    await until(() => balancer.stats().slots[0].pid === null)
    // A new one waits for the next worker rather than go to that one.
    const waiting = await connect(port)
    await until(() => balancer.stats().waiting === 1)
    slots[0] = staying
    assert.equal(await readLines(waiting)(), `${staying.pid}`)
    waiting.destroy()
    for (let n = 0; n < 3; n++) {
      open.write(`hello ${n}\n`)
      assert.equal(await lines(), `hello ${n}`)
    }
    // It lives until they end, and no longer.
    assert.equal(leaving.child.exitCode, null)
    open.end()
    assert.deepEqual(await leaving.exited, { code: 0, signal: null })
    assert.equal(leaving.stderr, '')
  })
}

test(
  'guarantee 10, clean ends: a worker of node:cluster that is told to go before it has a channel does not crash',
  TIMEOUT,
  async (t) => {
    const { primary } = await balanced(t, { workers: 1 })
    assert.deepEqual(await primary.call('forkAndDismiss'), { code: 0, signal: null })
  },
)

test('guarantee 10, clean ends: a server of a disconnected worker closes as ever', TIMEOUT, async (t) => {
  const file = path.join(directory(t), 'outcome')
  const { fixture } = await pair(t, 'net')
  await fixture.next('listening')
  await fixture.call('disconnectThen', 'close', 'server', file)
  assert.deepEqual(await fixture.exited, { code: 0, signal: null })
  assert.equal(fs.readFileSync(file, 'utf8'), 'closed')
})

// Which of two events of one turn comes first is known for Linux.
test('guarantee 10, clean ends: what reaches a worker after it was disconnected goes to another', {
  ...TIMEOUT,
  skip: !LINUX,
}, async (t) => {
  const [leaving, staying] = await Promise.all([listening(t, 'http'), listening(t, 'http')])
  const slots = [leaving]
  const balancer = await balancing(t, slots)
  await served(balancer)
  // The answer to the second call comes in a later turn of its event loop than that which the channel was opened in:
  // from here on it waits for events, on all its descriptors.
  await leaving.call('look', 'server')
  await leaving.call('look', 'server')
  signal(leaving.pid, 'SIGSTOP')
  await until(() => processState(leaving.pid) === 'T')
  leaving.child.disconnect()
  const client = net.connect(balancer.address().port, '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  // The connection is made in a tick that comes before this one. What native code does then, it does
  // while this event loop does not get to hear of the disconnection.
  process.nextTick(() => {
    while (balancer.stats().slots[0].inFlight === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
    slots[0] = staying
    signal(leaving.pid, 'SIGCONT')
  })
  assert.match(await readAll(client), new RegExp(`^HTTP/1.1 200 [^]*\\r\\n${staying.pid}$`))
  assert.equal(balancer.stats().redelivered, 1)
  assert.deepEqual(await leaving.exited, { code: 0, signal: null })
})

test('guarantee 10, clean ends: a worker serves out its connections when the primary dies', {
  ...TIMEOUT,
  skip: !LINUX,
}, async (t) => {
  const primary = start(t, 'primary.js', {
    args: [{ manager: 'pool', workers: 1, worker: 'worker-echo.js', options: PATIENT }],
  })
  const { port } = await primary.call('listen')
  const open = await connect(port)
  const lines = readLines(open)
  const orphan = Number(await lines())
  t.after(() => signal(orphan, 'SIGKILL'))
  signal(primary.pid, 'SIGKILL')
  await primary.exited
  for (let n = 0; n < 3; n++) {
    open.write(`hello ${n}\n`)
    assert.equal(await lines(), `hello ${n}`)
  }
  assert.equal(hasEnded(orphan), false)
  open.end()
  await until(() => hasEnded(orphan))
})

/** Returns the next line of a socket at each call. */
function readLines(socket) {
  const lines = readline.createInterface({ input: socket })[Symbol.asyncIterator]()
  return async () => (await lines.next()).value
}

/** The state of a process as the system tells it, nothing when it is gone. */
function processState(pid) {
  try {
    return fs.readFileSync(`/proc/${pid}/stat`, 'utf8').match(/\) (\w) /)[1]
  } catch {
    return undefined
  }
}

/** Of a process that is not our child: where nobody waits for it, it stays as a zombie. */
const hasEnded = (pid) => [undefined, 'Z'].includes(processState(pid))

test('guarantee 4, exactly one owner: what came for two slots of a worker at once is served, though its server closes at the first', async (t) => {
  const closing = start(t, 'closing-worker.js')
  await once(closing.child, 'message')
  const balancer = await balancing(t, [closing, closing], { steering: 'handover' })
  await served(balancer)
  const { port } = balancer.address()
  const clients = [0, 1].map((slot) => {
    for (let n = 0; ; n++) if (balancer.slotOf(loopback(n)).slot === slot) return loopback(n)
  })
  const file = path.join(directory(t), 'go')
  closing.child.send({ block: file })
  await once(closing.child, 'message')
  const asked = []
  for (const localAddress of [clients[0], clients[1], clients[1]]) {
    const { delivered } = balancer.stats()
    asked.push(request(port, { localAddress }))
    await until(() => balancer.stats().delivered === delivered + 1)
  }
  fs.writeFileSync(file, '')
  for (const { status, body } of await Promise.all(asked)) {
    assert.deepEqual({ status, body }, { status: 200, body: `${closing.pid}` })
  }
})
