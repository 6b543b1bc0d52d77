'use strict'

// In a worker, `listen(server)` makes a listening server in every respect. The workers are processes under
// the test's control; the balancer is in the test's own.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const sticky = require('..')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { directory } = require('./support/places')
const {
  KINDS,
  PATIENT,
  TIMEOUT,
  balancing,
  listening,
  pair,
  served,
  times,
  worker,
} = require('./support/worker-server')

const LINUX = process.platform === 'linux'

// --- A listening server, to itself ---------------------------------------------------------------

const ADDRESSES = {
  'an IPv4 address': () => [0, '127.0.0.1'],
  'an IPv6 address': () => [0, '::1'],
  'no host': () => [0],
  'a unix socket': (t) => [path.join(directory(t), 'socket')],
}

for (const of of Object.keys(KINDS)) {
  for (const [name, at] of Object.entries(ADDRESSES)) {
    test(`listen() in ${of} makes a listening server, of a balancer at ${name}`, TIMEOUT, async (t) => {
      const fixture = await worker(t, 'net', {}, {}, of)
      const balancer = await balancing(t, [fixture], { at: at(t) })
      const before = await fixture.call('look', 'server')
      assert.deepEqual([before.listening, before.address, before.events], [false, null, []])
      assert.deepEqual(await fixture.call('listen', 'server'), { returned: true, listening: true })
      await fixture.next('listening')
      const { listening, address, connections, events } = await fixture.call('look', 'server')
      assert.deepEqual(
        { listening, address, connections, events },
        // Whoever asks in 'listening' is told the address.
        {
          listening: true,
          address: balancer.address(),
          connections: 0,
          events: [['listening', balancer.address()]],
        },
      )
    })
  }
}

for (const [name, at] of Object.entries(ADDRESSES)) {
  test(`without a balancer 'listening' comes in about 250 ms; one at ${name} tells its address`, TIMEOUT, async (t) => {
    const fixture = await worker(t, 'net')
    const time = await fixture.call('timeToListen', 'server')
    assert.ok(time >= 240 && time < 2000, `${time} ms`)
    const before = await fixture.call('look', 'server')
    assert.deepEqual([before.listening, before.address, before.events], [true, null, [['listening', null]]])
    const balancer = await balancing(t, [fixture], { at: at(t) })
    await served(balancer)
    const after = await fixture.call('look', 'server')
    assert.deepEqual([after.listening, after.address, after.events], [true, balancer.address(), [['listening', null]]])
  })
}

test('ref() and unref() return the server', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  assert.equal(await fixture.call('call', 'server', 'unref'), true)
  assert.equal(await fixture.call('call', 'server', 'ref'), true)
  assert.equal((await request(port)).status, 200)
})

test('the server counts its connections', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'net')
  const clients = await Promise.all([connect(port), connect(port), connect(port)])
  await times(fixture, 3, 'connection')
  assert.equal((await fixture.call('look', 'server')).connections, 3)
  clients[0].destroy()
  await until(async () => (await fixture.call('look', 'server')).connections === 2)
  for (const client of clients) client.destroy()
  await until(async () => (await fixture.call('look', 'server')).connections === 0)
})

test("maxConnections drops further ones, and 'drop' tells which", TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'net', {}, { maxConnections: 2 })
  const clients = await Promise.all([connect(port), connect(port)])
  await times(fixture, 2, 'connection')
  const dropped = await connect(port, loopback(7))
  const { localPort } = dropped
  assert.equal(await readAll(dropped), '')
  assert.deepEqual(await fixture.next('drop'), {
    localAddress: '127.0.0.1',
    localPort: port,
    localFamily: 'IPv4',
    remoteAddress: loopback(7),
    remotePort: localPort,
    remoteFamily: 'IPv4',
  })
  clients[0].destroy()
  await until(async () => (await fixture.call('look', 'server')).connections === 1)
  const third = await connect(port)
  await fixture.next('connection')
  for (const client of [...clients, third]) client.destroy()
})

test('noDelay and keepAlive reach the socket as of any server', TIMEOUT, async (t) => {
  const options = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 7000 }
  const fixture = await worker(t, 'net', options)
  await fixture.call('create', 'plain', 'net', options)
  await fixture.call('spy')
  const plain = await connect((await fixture.call('listenAlone', 'plain')).port)
  await fixture.next('connection')
  const expected = await fixture.call('spy')
  plain.destroy()
  // Their last item is what the system said.
  assert.deepEqual(
    expected.map(([method, , result]) => [method, result]),
    [
      ['setNoDelay', 0],
      ['setKeepAlive', 0],
    ],
  )
  await fixture.call('listen', 'server')
  const balancer = await balancing(t, [fixture])
  const client = await connect(balancer.address().port)
  await fixture.next('connection')
  assert.deepEqual(await fixture.call('spy'), expected)
  client.destroy()
})

test('pauseOnConnect leaves the bytes alone until the socket is resumed', TIMEOUT, async (t) => {
  const paused = await pair(t, 'listener', { pauseOnConnect: true })
  const client = await connect(paused.port)
  await new Promise((resolve) => client.write('hello', resolve))
  await paused.fixture.next('connection')
  const { sockets } = await paused.fixture.call('look', 'server')
  assert.deepEqual(
    sockets.map(({ paused, bytesRead }) => ({ paused, bytesRead })),
    [{ paused: true, bytesRead: 0 }],
  )
  await paused.fixture.call('resume', 'server')
  client.end()
  assert.equal(await readAll(client), 'hello')
})

test('blockList closes the connections of those on it', { ...TIMEOUT, skip: !knowsBlockList() }, async (t) => {
  const { port } = await pair(t, 'net', { block: loopback(9) })
  const blocked = await connect(port, loopback(9))
  assert.equal(await readAll(blocked), '')
  const welcome = await connect(port, loopback(8))
  welcome.end('hello')
  assert.equal(await readAll(welcome), 'hello')
})

function knowsBlockList() {
  return net.createServer({ blockList: new net.BlockList() }).blockList !== undefined
}

test('a half-open connection stays open until the server has answered', TIMEOUT, async (t) => {
  const { port } = await pair(t, 'halfOpen')
  const client = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  client.end('drawer')
  assert.equal(await readAll(client), 'reward')
})

test('the socket knows both its ends', TIMEOUT, async (t) => {
  for (const [host, from, family] of [
    ['127.0.0.1', loopback(40), 'IPv4'],
    ['::1', '::1', 'IPv6'],
  ]) {
    const fixture = await listening(t, 'net')
    const balancer = await balancing(t, [fixture], { at: [0, host] })
    const { port } = balancer.address()
    const client = net.connect({ port, host, localAddress: from })
    await fixture.next('connection')
    const { sockets } = await fixture.call('look', 'server')
    const { bytesRead, paused, ...socket } = sockets[0]
    assert.deepEqual(socket, {
      remoteAddress: from,
      remotePort: client.localPort,
      remoteFamily: family,
      localAddress: host,
      localPort: port,
      localFamily: family,
      handle: 'TCP',
    })
    client.destroy()
  }
})

for (const [name, at] of Object.entries({
  'a unix socket': (t) => path.join(directory(t), 'socket'),
  ...(LINUX && { 'an abstract unix socket': (t) => `\0${directory(t)}` }),
})) {
  test(`workers answer connections of ${name}, which are pipes to them`, TIMEOUT, async (t) => {
    const fixture = await listening(t, 'net')
    const balancer = await balancing(t, [fixture], { at: [at(t)] })
    await served(balancer)
    await parallel(20, 4, async (n) => {
      const client = net.connect({ path: balancer.address() })
      client.end(`hello ${n}`)
      assert.equal(await readAll(client), `hello ${n}`)
    })
    const { address, sockets } = await fixture.call('look', 'server')
    assert.equal(address, balancer.address())
    assert.equal(sockets.length, 20)
    const client = net.connect({ path: balancer.address() })
    await until(async () => (await fixture.call('look', 'server')).sockets.length === 21)
    assert.equal((await fixture.call('look', 'server')).sockets[20].handle, 'Pipe')
    client.destroy()
  })
}

// --- What 'listening' starts in http servers ------------------------------------------------------

for (const [name, options, bytes] of [
  ['headersTimeout', { headersTimeout: 50 }, 'GET / HTTP/1.1\r\nHost: x'],
  ['requestTimeout', { requestTimeout: 50 }, 'POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhell'],
]) {
  test(`http: ${name} answers 408`, TIMEOUT, async (t) => {
    const { port } = await pair(t, 'http', { connectionsCheckingInterval: 20, ...options })
    const client = await connect(port)
    client.write(bytes)
    assert.match(await readAll(client), /^HTTP\/1\.1 408 /)
  })
}

test('http: the server knows its idle connections, and closes them when asked', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  const [idle, busy] = [await connect(port), await connect(port)]
  idle.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(idle, 'readable')
  busy.write('GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
  await times(fixture, 2, 'request')
  await fixture.call('call', 'server', 'closeIdleConnections')
  assert.match(await readAll(idle), /^HTTP\/1\.1 200 /)
  await fixture.call('release')
  assert.match(await readAll(busy), /^HTTP\/1\.1 200 /)
})

// --- More than one -------------------------------------------------------------------------------

for (const first of ['a port', 'a unix socket']) {
  test(`several balancers feed one server; its address is of the first, at ${first}`, TIMEOUT, async (t) => {
    const fixture = await worker(t, 'http')
    const places = { 'a port': [0, '127.0.0.1'], 'a unix socket': [path.join(directory(t), 'socket')] }
    const balancers = [await balancing(t, [fixture], { at: places[first] })]
    await fixture.call('listen', 'server')
    await served(balancers[0])
    for (const at of Object.values(places)) {
      balancers.push(await balancing(t, [fixture], { at: at === places[first] ? [0, '127.0.0.1'] : at }))
    }
    await Promise.all(balancers.map(served))
    const everywhere = async (targets) => {
      await parallel(10 * targets.length, 6, async (n) => {
        const address = targets[n % targets.length].address()
        const to = typeof address === 'string' ? { socketPath: address } : { port: address.port }
        const { body } = await request(undefined, to)
        assert.equal(body, `${fixture.pid}`)
      })
    }
    await everywhere(balancers)
    const { address, events } = await fixture.call('look', 'server')
    assert.deepEqual(address, balancers[0].address())
    assert.deepEqual(events, [['listening', balancers[0].address()]])
    assert.deepEqual(
      balancers.map((balancer) => balancer.stats().adopted),
      [10, 10, 10],
    )
    balancers[0].close()
    await everywhere(balancers.slice(1))
  })
}

test('several servers of a worker get the connections of their own balancers', TIMEOUT, async (t) => {
  const fixture = KINDS['a child process'](t, 'worker-server.js')
  const ports = {}
  for (const name of ['default', 'admin', 'metrics']) {
    await fixture.call('create', name, 'http')
    await fixture.call('listen', name, name === 'default' ? undefined : { name })
    const balancer = await balancing(t, [fixture], name === 'default' ? {} : { name })
    ports[name] = balancer.address().port
  }
  const counts = { default: 3, admin: 5, metrics: 7 }
  for (const [name, count] of Object.entries(counts)) {
    await parallel(count, 2, async () => {
      assert.equal((await request(ports[name])).body, `${fixture.pid}`)
    })
  }
  for (const [name, count] of Object.entries(counts)) {
    const { address, sockets } = await fixture.call('look', name)
    assert.equal(sockets.length, count, name)
    assert.equal(address.port, ports[name])
  }
  // One of them closed leaves the others be.
  await fixture.call('close', 'admin')
  await fixture.next('closed')
  assert.equal((await request(ports.default)).status, 200)
  assert.equal((await request(ports.metrics)).status, 200)
})

test('node:cluster workers serve a balancer that is told of none', TIMEOUT, async (t) => {
  const fixtures = await Promise.all([0, 1].map(() => listening(t, 'http', {}, {}, 'a worker of node:cluster')))
  const balancer = sticky.createBalancer(PATIENT).listen(0, '127.0.0.1')
  t.after(() => balancer.close())
  await once(balancer, 'listening')
  await until(() => balancer.stats().slots.filter(({ pid }) => pid).length === 2)
  const seen = new Set()
  await parallel(40, 8, async (n) => {
    seen.add((await request(balancer.address().port, { localAddress: loopback(n) })).body)
  })
  assert.deepEqual([...seen].sort(), fixtures.map(({ pid }) => `${pid}`).sort())
})
