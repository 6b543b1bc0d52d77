'use strict'

// A balancer is a `net.Server` in all that a program can see of it: what it returns, throws and
// emits, and when; what it leaves of the process and of the file system.

const assert = require('node:assert/strict')
const { fork } = require('node:child_process')
const cluster = require('node:cluster')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')
const sticky = require('..')
const { scenarios } = require('./fixtures/net-server-scenarios')
const { play } = require('./fixtures/net-server-stage')
const { parallel, readAll, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { FIXTURES, Fixture, start } = require('./support/process')
const { listening } = require('./support/worker-server')

const LINUX = process.platform === 'linux'

// For a process that does not end where it should.
const TIMEOUT = { timeout: 30_000 }

const REFUSED = /^HTTP\/1\.. 502 /

test('a balancer does as net.createServer() does:', TIMEOUT, async (t) => {
  for (const [name, scenario] of Object.entries(scenarios)) {
    await t.test(name, async () => {
      const [expected, actual] = await play(scenario, [() => net.createServer(), () => sticky.createBalancer()])
      assert.ok(expected.length > 0)
      assert.deepEqual(actual, expected)
    })
  }
})

// Sockets that a process is born with, as of systemd. Each is made anew for either kind of server.
const inherited = {
  'a socket that listens': async () => {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return [server._handle, server]
  },
  'a socket that is bound': async () => {
    const handle = net._createServerHandle('127.0.0.1', 0, 4)
    return [handle, handle]
  },
  'a unix socket that listens': async (t) => {
    const server = net.createServer().listen(path.join(directory(t), 'socket'))
    await once(server, 'listening')
    return [server._handle, server]
  },
  'a socket that is connected': async (t) => {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const socket = net.connect(server.address().port, '127.0.0.1')
    t.after(() => socket.destroy())
    await once(socket, 'connect')
    return [socket._handle, server]
  },
  'a file': async () => {
    const fd = fs.openSync(os.devNull)
    return [{ fd }, { close: () => fs.closeSync(fd) }]
  },
}

for (const [name, make] of Object.entries(inherited)) {
  test(`a balancer does as net.createServer() does: listen({ fd }) of ${name}`, TIMEOUT, async (t) => {
    const [expected, actual] = await Promise.all(
      ['net', 'sticky'].map(async (kind) => {
        const [{ fd }, owner] = await make(t)
        const child = fork(path.join(FIXTURES, 'net-server-fd.js'), [JSON.stringify(kind)], {
          stdio: ['ignore', 'pipe', 'pipe', 'ipc', fd],
        })
        const fixture = new Fixture(child)
        t.after(() => fixture.kill())
        const log = await said(fixture, 'log')
        assert.deepEqual([await fixture.exited, fixture.stderr], [{ code: 0, signal: null }, ''])
        // Its owner has it still, and the file as well.
        const address = owner.address?.()
        if (typeof address === 'string') assert.ok(fs.existsSync(address))
        owner.close()
        return log
      }),
    )
    assert.ok(expected.length > 0)
    assert.deepEqual(actual, expected)
  })
}

// What only a balancer can show: that it takes connections. Without workers it refuses them all.
const forms = {
  'a port': () => [0],
  'a port of 127.0.0.1': () => [0, '127.0.0.1'],
  'a port of ::1': () => [0, '::1'],
  'a name': () => [0, 'localhost'],
  'a unix socket': (t) => [path.join(directory(t), 'socket')],
  ...(LINUX && { 'an abstract unix socket': (t) => [`\0${directory(t)}`] }),
  'a handle': () => [net._createServerHandle('127.0.0.1', 0, 4)],
  'the handle of a server that listens': async (t) => {
    const server = net.createServer(() => assert.fail('the other took a connection'))
    t.after(() => server.close())
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return [server]
  },
  ...(net.BoundSocket && { 'a bound socket': () => [new net.BoundSocket({ port: 0, host: '127.0.0.1' })] }),
}

for (const [name, make] of Object.entries(forms)) {
  test(`a balancer takes connections at ${name}, and none once it is closed`, TIMEOUT, async (t) => {
    const balancer = sticky.createBalancer({ maxRetries: 0 })
    balancer.listen(...(await make(t)))
    await once(balancer, 'listening')
    const address = balancer.address()
    // The unspecified address stands for IPv4 as well.
    const host = address.address === '::' ? '127.0.0.1' : address.address
    const to = typeof address === 'string' ? { path: address } : { host, port: address.port }
    await parallel(20, 4, async () => {
      assert.match(await readAll(net.connect(to)), REFUSED)
    })
    assert.equal(balancer.stats().refused, 20)
    const closed = once(balancer, 'close')
    balancer.close()
    const [error] = await once(net.connect(to), 'error')
    assert.match(error.code, /^(ECONNREFUSED|ENOENT)$/)
    await closed
  })
}

for (const policy of ['SCHED_RR', 'SCHED_NONE']) {
  test(`a balancer in a worker of node:cluster takes connections, with ${policy}`, TIMEOUT, async (t) => {
    const fixture = start(t, 'net-server-in-cluster.js', { args: [cluster[policy]] })
    for (const next of ['again', 'end']) {
      const { address, port } = await said(fixture, 'listening')
      assert.equal(address, '127.0.0.1')
      await parallel(20, 4, async () => {
        assert.match(await readAll(net.connect(port, address)), REFUSED)
      })
      await fixture.call('tell', next)
    }
    assert.equal(await said(fixture, 'exit'), 0)
  })
}

test('connections to a descriptor that was given wait, with no patience, for the first worker', TIMEOUT, async (t) => {
  // As of systemd: whoever has it does not accept.
  const handle = net._createServerHandle('127.0.0.1', 0, 4)
  t.after(() => handle.close())
  const table = []
  const balancer = sticky.createBalancer(() => table, { maxRetries: 0 })
  t.after(() => balancer.close())
  balancer.listen({ fd: handle.fd })
  await once(balancer, 'listening')
  const answers = Array.from({ length: 20 }, () => request(balancer.address().port))
  table.push((await listening(t, 'http')).child)
  for (const answer of answers) assert.equal((await answer).status, 200)
  const { accepted, adopted } = balancer.stats()
  assert.deepEqual([accepted, adopted], [20, 20])
  // From then on all is as ever.
  table.pop()
  await until(() => balancer.stats().slots.length === 0)
  assert.equal((await request(balancer.address().port)).status, 502)
})

test('what listen() cannot do in a worker of node:cluster is an error event', TIMEOUT, async (t) => {
  for (const host of [null, '127.0.0.1']) {
    const options = { takeOver: path.join(directory(t), 'socket'), host }
    const fixture = start(t, 'net-server-in-cluster.js', { args: [cluster.SCHED_RR, options] })
    const { code, message } = await said(fixture, 'error')
    assert.equal(code, 'ERR_STICKY_TAKE_OVER')
    assert.match(message, /this process is a worker of node:cluster/)
  }
})

test('require and createBalancer alone start no thread and open no descriptor', { skip: !LINUX }, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['required'] })
  const { before, required, created } = await said(fixture, 'counts')
  assert.equal(before.threads.ours, 0)
  assert.deepEqual(required, before)
  assert.deepEqual(created, before)
})

test('each listening balancer has a thread; they and all descriptors go with them', { skip: !LINUX }, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['cycles'] })
  const { before, listening, again, after, end } = await said(fixture, 'counts')
  assert.deepEqual(listening.threads, { ours: 3, others: before.threads.others })
  assert.equal(before.threads.ours, 0)
  assert.deepEqual(again.threads, listening.threads)
  assert.deepEqual(after, before)
  assert.deepEqual(end, before)
})

// Programs that end by themselves, and how.
const ends = {
  closed: 'once its balancer is closed',
  closedAtOnce: 'when its balancer was closed before it listened',
  failed: 'when its balancer could not listen',
  unreferenced: 'while an unreferenced balancer listens',
  unreferencedBefore: 'while a balancer listens that was unreferenced before',
}

for (const [program, when] of Object.entries(ends)) {
  test(`a process ends ${when}`, TIMEOUT, async (t) => {
    const fixture = start(t, 'net-server-process.js', { args: [program] })
    assert.deepEqual(await fixture.exited, { code: 0, signal: null })
    assert.equal(fixture.stderr, '')
  })
}

test('a process can exit while its balancer listens', TIMEOUT, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['exit'] })
  assert.deepEqual(await fixture.exited, { code: 7, signal: null })
})

test("what a 'listening' listener throws ends the process as ever", TIMEOUT, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['throwing'] })
  assert.deepEqual(await fixture.exited, { code: 1, signal: null })
  assert.match(fixture.stderr, /Error: in listening/)
})

test('a process lives while its balancer listens', TIMEOUT, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['listening'] })
  const port = await said(fixture, 'listening')
  await said(fixture, 'alive')
  assert.match(await readAll(net.connect(port, '127.0.0.1')), REFUSED)
  fixture.child.kill('SIGTERM')
  assert.deepEqual(await fixture.exited, { code: 0, signal: null })
})

test('a process lives while a balancer listens that is referenced again', TIMEOUT, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['referencedAgain'] })
  await said(fixture, 'alive')
  assert.deepEqual(await fixture.exited, { code: 0, signal: null })
})

test('a process lives while its balancer listens at a unix socket', TIMEOUT, async (t) => {
  const fixture = start(t, 'net-server-process.js', { args: ['path', path.join(directory(t), 'socket')] })
  await said(fixture, 'alive')
  assert.deepEqual(await fixture.exited, { code: 0, signal: null })
})

/** What a fixture says under that name; a fixture that ends without saying it fails. */
async function said(fixture, name) {
  const ended = fixture.exited.then(async (how) => {
    // Its last words may still be on their way.
    if (fixture.child.connected) await once(fixture.child, 'disconnect')
    await new Promise((resolve) => setImmediate(resolve))
    throw new Error(`the fixture ended without saying '${name}': ${JSON.stringify(how)} ${fixture.stderr}`)
  })
  return await Promise.race([fixture.next(name), ended])
}
