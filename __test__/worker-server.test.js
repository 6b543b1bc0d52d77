'use strict'

// In a worker, `listen(server)` makes a listening server in every respect, whatever kind of server it
// is. The workers are processes under the test's control; the balancer is in the test's own.

const assert = require('node:assert/strict')
const { execFileSync, spawnSync } = require('node:child_process')
const cluster = require('node:cluster')
const { createHash, randomBytes } = require('node:crypto')
const { once } = require('node:events')
const fs = require('node:fs')
const http2 = require('node:http2')
const https = require('node:https')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const readline = require('node:readline')
const { before, after, test } = require('node:test')
const tls = require('node:tls')
const { Worker } = require('node:worker_threads')
const sticky = require('..')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { FIXTURES, Fixture, signal, start } = require('./support/process')

const LINUX = process.platform === 'linux'

// For what never comes.
const TIMEOUT = { timeout: 20_000 }

// Most of these tests are not about patience.
const PATIENT = { maxRetries: 100, retryDelay: 150 }

const KINDS = {
  'a child process': (t, file) => start(t, file),
  'a worker of node:cluster': (t, file) => {
    cluster.setupPrimary({ exec: path.join(FIXTURES, file), args: [], silent: true })
    const worker = cluster.fork()
    const fixture = new Fixture(worker.process)
    t.after(() => fixture.kill())
    return Object.assign(fixture, { worker })
  },
}

/**
 * A worker with a server, which does not listen yet.
 * @param {import('node:test').TestContext} t
 * @param {string} kind of server
 * @param {object} [options] of the server
 */
async function worker(t, kind, options, properties, of = 'a child process') {
  const fixture = KINDS[of](t, 'worker-server.js')
  await fixture.call('create', 'server', kind, options, properties)
  return fixture
}

/** A worker whose server listens. */
async function listening(t, ...args) {
  const fixture = await worker(t, ...args)
  await fixture.call('listen', 'server')
  return fixture
}

/**
 * A balancer that listens, with these workers for its slots. To change the slots, change the array.
 * @param {import('node:test').TestContext} t
 * @param {(Fixture | null)[]} slots
 */
async function balancing(t, slots, { at = [0, '127.0.0.1'], ...options } = {}) {
  const activeWorkers = () => slots.map((fixture) => fixture && (fixture.worker ?? fixture.child))
  const balancer = sticky.createBalancer({ ...PATIENT, activeWorkers, ...options })
  t.after(() => balancer.close())
  balancer.listen(...at)
  await once(balancer, 'listening')
  return balancer
}

/** Waits until workers serve all slots. */
const served = (balancer) =>
  until(() => balancer.stats().slots.length > 0 && balancer.stats().slots.every(({ pid }) => pid))

/** A balancer with one slot, its worker, and the port. */
async function pair(t, kind, options, properties) {
  const fixture = await listening(t, kind, options, properties)
  const balancer = await balancing(t, [fixture])
  await served(balancer)
  return { balancer, fixture, port: balancer.address().port }
}

function directory(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
  t.after(() => fs.rmSync(made, { recursive: true, force: true }))
  return made
}

/** The next `count` events of that name. */
async function times(fixture, count, name) {
  for (let n = 0; n < count; n++) await fixture.next(name)
}

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

// --- Servers of all kinds ------------------------------------------------------------------------

/** @type {{ [file: string]: string }} keys and certificates, by their names */
const pem = {}
let certificates

before(() => {
  certificates = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
  const openssl = (...args) => execFileSync('openssl', args, { cwd: certificates, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const lasts = ['-days', '2']
  openssl('req', '-x509', ...key, ...lasts, '-subj', '/CN=An authority', '-keyout', 'ca.key', '-out', 'ca.crt')
  fs.writeFileSync(path.join(certificates, 'names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1')
  for (const name of ['localhost', 'client']) {
    openssl('req', ...key, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`)
    const by = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names']
    openssl('x509', '-req', '-in', `${name}.csr`, ...by, ...lasts, '-out', `${name}.crt`)
  }
  for (const file of fs.readdirSync(certificates)) pem[file] = fs.readFileSync(path.join(certificates, file), 'utf8')
})

after(() => fs.rmSync(certificates, { recursive: true }))

const secure = () => ({ key: pem['localhost.key'], cert: pem['localhost.crt'] })
const trusting = () => ({ ca: pem['ca.crt'], servername: 'localhost' })

test('http', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  const { status, body } = await request(port, { method: 'POST', path: '/body', body: 'x'.repeat(100_000) })
  assert.deepEqual([status, body], [200, `${fixture.pid}`])
})

test('https', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'https', secure())
  const response = await new Promise((resolve, reject) => {
    https.get({ port, host: '127.0.0.1', agent: false, ...trusting() }, resolve).on('error', reject)
  })
  assert.equal(response.socket.authorized, true)
  assert.equal(await readAll(response), `${fixture.pid}`)
})

for (const [kind, scheme, server] of [
  ['http2', 'http', () => ({})],
  ['http2secure', 'https', secure],
]) {
  test(`http2 over ${scheme}: many streams on one connection`, TIMEOUT, async (t) => {
    const { fixture, port } = await pair(t, kind, server())
    const session = http2.connect(`${scheme}://127.0.0.1:${port}`, scheme === 'https' ? trusting() : {})
    t.after(() => session.destroy())
    await parallel(20, 20, async () => {
      const stream = session.request({ ':path': '/' })
      const [headers] = await once(stream, 'response')
      assert.equal(headers[':status'], 200)
      assert.equal(await readAll(stream), `${fixture.pid}`)
    })
    assert.equal((await fixture.call('look', 'server')).connections, 1)
    assert.equal(session.alpnProtocol, scheme === 'https' ? 'h2' : 'h2c')
  })
}

test('tls with certificates of clients', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'tls', { ...secure(), ca: pem['ca.crt'], requestCert: true })
  const to = { port, host: '127.0.0.1', ...trusting() }
  const client = tls.connect({ ...to, key: pem['client.key'], cert: pem['client.crt'] })
  assert.deepEqual(JSON.parse(await readAll(client)), {
    pid: fixture.pid,
    authorized: true,
    encrypted: true,
    name: 'client',
  })
  await assert.rejects(readAll(tls.connect(to)), { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' })
})

test('net: a great deal of bytes both ways, on many connections', TIMEOUT, async (t) => {
  const { port } = await pair(t, 'net')
  const digest = (hash) => hash.digest('hex')
  await parallel(6, 3, async (n) => {
    const sent = randomBytes(8 * 1024 * 1024)
    const client = await connect(port, loopback(n))
    client.end(sent)
    const heard = createHash('sha256')
    for await (const chunk of client) heard.update(chunk)
    assert.equal(digest(heard), digest(createHash('sha256').update(sent)))
  })
})

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

// --- Misuse --------------------------------------------------------------------------------------

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

  await t.test('in a thread of a worker, which has no channel of its own', async () => {
    const thread = new Worker(program, { eval: true, stdout: true })
    assert.deepEqual(JSON.parse(await readAll(thread.stdout)), expected)
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
    ['numberAsName', 'ERR_INVALID_ARG_TYPE', name],
    ['emptyName', 'ERR_INVALID_ARG_VALUE', "The property 'options.name' must not be empty. Received ''"],
    [
      'textAsOptions',
      'ERR_INVALID_ARG_TYPE',
      `The "options" argument must be of type object. Received type string ('default')`,
    ],
  ]) {
    await assert.rejects(fixture.call('misuse', what), { name: 'TypeError', code, message }, what)
  }
  // Nothing of it has taken the name.
  await fixture.call('create', 'server', 'net')
  assert.equal((await fixture.call('listen', 'server')).returned, true)
})

test('a server that listens already throws ERR_SERVER_ALREADY_LISTEN and goes on', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  const message = 'Listen method has been called more than once without closing.'
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
  // From here on it waits for events, on all its descriptors.
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
