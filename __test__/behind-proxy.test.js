'use strict'

// The client is whom a request's header names. Here the tests themselves are the proxy; real ones are in
// systems/proxies.test.js.

const assert = require('node:assert/strict')
const { createHash, randomBytes } = require('node:crypto')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const { test: nodeTest } = require('node:test')
const { createBalancer } = require('..')
const { selfSigned } = require('./support/certificates')
const { connect, parallel, readAll, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { balanced, fdCount, settledFdCount, start } = require('./support/process')
const { has } = require('./support/tools')

const test = (name, body) => nodeTest(name, { timeout: 60_000 }, body)

// A fixed seed, so that who gets which slot is no matter of luck.
const PATIENT = { seed: 'behind-proxy', maxRetries: 400, retryDelay: 150 }

/** Four workers behind a balancer that looks at headers. */
const behind = (t, options) => balanced(t, { workers: 4, options: { ...PATIENT, behindProxy: true, ...options } })

/** The worker of a request with these headers. */
async function workerOf(port, headers, options) {
  const { status, body } = await request(port, { headers, ...options })
  assert.equal(status, 200)
  return Number(body)
}

const client = (n) => `203.0.113.${n}`

/** For each of some clients, the worker that serves it. */
async function workersOf(port, clients = 40, header = 'X-Forwarded-For') {
  const workers = []
  await parallel(clients, 8, async (n) => {
    workers[n] = await workerOf(port, { [header]: client(n) })
  })
  return workers
}

/** Sends bytes in pieces, each in a segment of its own; returns all that comes back. */
async function send(port, pieces) {
  const socket = await connect(port)
  socket.setNoDelay(true).setEncoding('latin1')
  const answer = readAll(socket)
  for (const piece of pieces) {
    socket.write(piece)
    // The next turn of the event loop: nothing is put together here.
    await new Promise((resolve) => setImmediate(resolve))
  }
  return answer
}

const head = (lines, method = 'GET', path = '/') =>
  [`${method} ${path} HTTP/1.1`, 'Host: x', 'Connection: close', ...lines, '', ''].join('\r\n')

const bodyOf = (answer) => answer.slice(answer.indexOf('\r\n\r\n') + 4)

test('each client of a proxy stays with its worker, and all workers are busy', async (t) => {
  const { primary, port } = await behind(t)
  const workers = await workersOf(port)
  assert.equal(new Set(workers).size, 4)
  assert.deepEqual(await workersOf(port), workers)
  const { accepted, adopted, identifying, rejected } = await primary.call('stats')
  assert.deepEqual([accepted, adopted, identifying, rejected], [80, 80, 0, 0])
})

test('one client is one client in every spelling, in any case and spacing, on any line', async (t) => {
  const { port } = await behind(t)
  const spelled = async (lines) => Number(bodyOf(await send(port, [head(lines)])))
  for (let n = 0; n < 8; n++) {
    const own = await spelled([`X-Forwarded-For: 192.0.2.${n}`])
    for (const lines of [
      [`x-forwarded-for:192.0.2.${n}`],
      [`X-FORWARDED-FOR: \t 192.0.2.${n} \t`],
      [`X-Forwarded-For: 192.0.2.${n}:4711, 10.0.0.1`],
      [`X-Forwarded-For: "192.0.2.${n}:1"`],
      [`X-Forwarded-For: ::ffff:192.0.2.${n}`],
      [`X-Forwarded-For: [::FFFF:C000:020${n}]:80`],
      [`X-Forwarded-For: unknown, 192.0.2.${n}, 9.9.9.9`],
      ['X-Forwarded-For-Foo: 9.9.9.9', 'X-Forwarded-For: unknown', `X-Forwarded-For: 192.0.2.${n}`],
    ]) {
      assert.equal(await spelled(lines), own, lines)
    }
    const six = await spelled([`X-Forwarded-For: 2001:db8::a${n}`])
    assert.equal(await spelled([`X-Forwarded-For: "[2001:DB8:0:0::A${n}]:443"`]), six)
    // A line of the body is no header.
    const post = head([`X-Forwarded-For: 192.0.2.${n}`, 'Content-Length: 26'], 'POST')
    assert.equal(Number(bodyOf(await send(port, [post, 'X-Forwarded-For: 9.9.9.9\r\n']))), own)
  }
})

test("cipHeader: 'forwarded' is read as RFC 7239 has it", async (t) => {
  const { port } = await behind(t, { cipHeader: 'Forwarded' })
  const workers = []
  for (let n = 0; n < 24; n++) {
    workers[n] = await workerOf(port, { Forwarded: `for=192.0.2.${n};proto=https;by=203.0.113.43` })
    assert.equal(await workerOf(port, { Forwarded: `Proto=http; For="192.0.2.${n}:47011", for=10.0.0.1` }), workers[n])
  }
  assert.equal(new Set(workers).size, 4)
})

test('any other header names clients as well, by values that are no addresses too', async (t) => {
  const { port } = await behind(t, { cipHeader: 'X-User' })
  const workers = []
  for (let n = 0; n < 24; n++) {
    workers[n] = await workerOf(port, { 'X-User': `user-${n}; role="a, b"` })
    assert.equal(await workerOf(port, { 'x-user': `user-${n}; role="a, b"` }), workers[n])
  }
  assert.equal(new Set(workers).size, 4)
})

test('trustProxy, hops: the address at that distance is the client, whatever stands before it', async (t) => {
  const { port } = await behind(t, { trustProxy: 2 })
  const workers = []
  for (let n = 0; n < 24; n++) {
    for (const spoofed of ['', '1.1.1.1, ', 'nonsense, 2.2.2.2, ']) {
      const worker = await workerOf(port, { 'X-Forwarded-For': `${spoofed}${client(n)}, 10.0.0.1` })
      workers[n] ??= worker
      assert.equal(worker, workers[n])
    }
  }
  assert.equal(new Set(workers).size, 4)
})

test('trustProxy, networks: the right-most address outside them; a peer outside is its own client', async (t) => {
  const { port } = await behind(t, { trustProxy: ['127.0.0.1', 'uniquelocal'] })
  const workers = []
  for (let n = 0; n < 24; n++) {
    for (const spoofed of ['', '1.1.1.1, ', '10.9.9.9, 2.2.2.2, ']) {
      const worker = await workerOf(port, { 'X-Forwarded-For': `${spoofed}${client(n)}, 10.0.0.1, 192.168.3.4` })
      workers[n] ??= worker
      assert.equal(worker, workers[n])
    }
  }
  assert.equal(new Set(workers).size, 4)
  const outsider = { localAddress: '127.0.0.9' }
  const own = await workerOf(port, {}, outsider)
  for (let n = 0; n < 24; n++) assert.equal(await workerOf(port, { 'X-Forwarded-For': client(n) }, outsider), own)
})

test('guarantee 5, not a byte lost: a POST in three segments, a head byte by byte, an upload, a pipelined pair', async (t) => {
  const { port } = await behind(t)
  const named = ['X-Forwarded-For: 192.0.2.1']
  const hash = (bytes) => createHash('sha256').update(bytes).digest('hex')
  const echoed = (answer) => hash(dechunk(Buffer.from(bodyOf(answer), 'latin1')))
  const body = randomBytes(1500).toString('hex')
  const post = head([...named, `Content-Length: ${body.length}`], 'POST', '/echo')
  const whole = post + body
  for (const cuts of [
    [20, post.length - 2],
    [post.length, post.length + 1500],
    [post.length - 1, post.length + 1],
  ]) {
    const pieces = [whole.slice(0, cuts[0]), whole.slice(cuts[0], cuts[1]), whole.slice(cuts[1])]
    assert.equal(echoed(await send(port, pieces)), hash(body))
  }

  const own = await workerOf(port, { 'X-Forwarded-For': '192.0.2.1' })
  assert.equal(Number(bodyOf(await send(port, [...head(named)]))), own)

  const upload = randomBytes(1 << 20)
  const announced = head([...named, `Content-Length: ${upload.length}`], 'POST', '/echo')
  assert.equal(echoed(await send(port, [announced, upload])), hash(upload))

  const pair = head(named).replace('Connection: close\r\n', '') + head(named)
  const answers = (await send(port, [pair])).split(/(?=HTTP\/1\.1 200)/)
  assert.deepEqual(
    answers.map((answer) => Number(bodyOf(answer))),
    [own, own],
  )
})

/** The content of a chunked body. */
function dechunk(bytes) {
  const parts = []
  for (let at = 0; ; ) {
    const line = bytes.indexOf('\r\n', at)
    const length = Number.parseInt(bytes.toString('latin1', at, line), 16)
    if (length === 0) return Buffer.concat(parts)
    parts.push(bytes.subarray(line + 2, line + 2 + length))
    at = line + 4 + length
  }
}

test('what says nothing in time, says too much, or is no HTTP goes on by the peer', async (t) => {
  const options = { headerTimeout: 300, maxHeaderSize: 1024 }
  const { primary, port } = await behind(t, options)
  const own = await workerOf(port, {})
  // Late, and silent for ever if nobody answered.
  const late = await connect(port)
  const answer = readAll(late)
  await until(async () => (await primary.call('stats')).identifying === 1)
  await until(async () => (await primary.call('stats')).identifying === 0)
  late.write(head(['X-Forwarded-For: 192.0.2.7']))
  assert.equal(Number(bodyOf(await answer)), own)
  // Beyond the limit.
  const long = head([`X-Long: ${'x'.repeat(1200)}`, 'X-Forwarded-For: 192.0.2.7'])
  for (const pieces of [[long], [long.slice(0, 700), long.slice(700)]]) {
    assert.equal(Number(bodyOf(await send(port, pieces))), own)
  }
  // Up to it.
  const named = head(['X-Forwarded-For: 192.0.2.7'])
  const expected = Number(bodyOf(await send(port, [named])))
  const filled = head([`X: ${'x'.repeat(1024 - named.length - 5)}`, 'X-Forwarded-For: 192.0.2.7'])
  assert.equal(filled.length, 1024)
  assert.equal(Number(bodyOf(await send(port, [filled]))), expected)
  // The worker, not the balancer, says what it thinks of nonsense.
  assert.match(await send(port, ['\0\0\0\r\n\r\n']), /^HTTP\/1\.1 400/)
  assert.match(await send(port, ['GET / HTTP/1.1\r\nX-Forwarded-For : 1.2.3.4\r\n\r\n']), /^HTTP\/1\.1 400/)
})

test('a client that says only half and ends is answered by a worker', async (t) => {
  const { port } = await behind(t)
  const socket = await connect(port)
  socket.end('GET / HT')
  assert.match(await readAll(socket), /^HTTP\/1\.1 400/)
})

/** One worker with a server of another kind, behind a balancer that looks at headers. */
async function otherServer(t, kind, options) {
  const worker = start(t, 'worker-server.js')
  await worker.call('create', 'server', kind, options)
  const balancer = createBalancer(() => [worker.child], { ...PATIENT, behindProxy: true })
  t.after(() => balancer.close())
  balancer.listen(0, '127.0.0.1')
  await once(balancer, 'listening')
  await worker.call('listen', 'server')
  return balancer.address().port
}

test('HTTP/2 with prior knowledge goes on by the peer', async (t) => {
  const port = await otherServer(t, 'http2')
  const session = http2.connect(`http://127.0.0.1:${port}`)
  const stream = session.request({ ':path': '/', 'x-forwarded-for': '192.0.2.1' })
  const [headers] = await once(stream, 'response')
  assert.equal(headers[':status'], 200)
  stream.resume()
  // Before the worker is killed, which would reset it.
  session.close()
  await once(session, 'close')
})

test('TLS goes on by the peer', async (t) => {
  if (!has(t, 'openssl')) return
  const { key, cert } = selfSigned(directory(t))
  const port = await otherServer(t, 'https', { key, cert })
  const sent = https.get({ port, host: '127.0.0.1', agent: false, ca: cert, servername: 'localhost' })
  const [response] = await once(sent, 'response')
  assert.equal(response.statusCode, 200)
  await once(response.resume(), 'end')
})

test('guarantee 8, bounded: 5,000 silent peers delay nobody, and cost a descriptor and little memory each', async (t) => {
  const SILENT = 5000
  const { primary, port } = await behind(t)
  await workersOf(port)
  const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${primary.pid}/status`, 'utf8'))[1]) * 1024
  const before = { descriptors: await settledFdCount(primary.pid), memory: resident() }
  const peers = []
  t.after(() => peers.forEach((peer) => void peer.destroy()))
  await parallel(SILENT, 50, async (n) => {
    const peer = await connect(port, `127.0.1.${n % 250}`)
    peer.on('error', () => {})
    peers.push(peer)
  })
  await until(async () => (await primary.call('stats')).identifying === SILENT)
  assert.equal(fdCount(primary.pid) - before.descriptors, SILENT)
  const each = (resident() - before.memory) / SILENT
  t.diagnostic(`${Math.round(each)} bytes for each silent peer`)
  assert.ok(each < 1000, `${each} bytes for each silent peer`)
  // Others are served meanwhile, and none of the silent ones is taken for them.
  await workersOf(port)
  assert.equal((await primary.call('stats')).identifying, SILENT)
  // Those who leave are let go of at once.
  for (const peer of peers) peer.destroy()
  await until(async () => (await primary.call('stats')).identifying === 0)
  assert.equal((await primary.call('stats')).gone, SILENT)
  await until(() => fdCount(primary.pid) <= before.descriptors)
})

test('guarantee 7, nothing kills the primary: 500 resets before the first byte, and amid a head', async (t) => {
  const { primary, port } = await behind(t)
  await workersOf(port)
  const before = await settledFdCount(primary.pid)
  await parallel(500, 50, async (n) => {
    const socket = await connect(port)
    socket.on('error', () => {})
    if (n % 2) socket.write('GET / HTTP/1.1\r\nX-Forwar')
    socket.resetAndDestroy()
    await once(socket, 'close')
  })
  await workersOf(port)
  await until(async () => (await primary.call('stats')).identifying === 0)
  const { accepted, adopted, gone, refused, waiting } = await primary.call('stats')
  assert.deepEqual([refused, waiting], [0, 0])
  await until(() => fdCount(primary.pid) <= before)
  // A reset connection may have been taken for one that said half; then the worker finds out.
  assert.ok(adopted + gone <= accepted)
})

test('a head that comes byte by byte from very many costs others nothing', async (t) => {
  const { primary, port } = await behind(t)
  const own = await workerOf(port, { 'X-Forwarded-For': client(1) })
  const bytes = head([`X-Forwarded-For: ${client(1)}`])
  const slow = Array.from({ length: 100 }, () => send(port, [...bytes]))
  await until(async () => (await primary.call('stats')).identifying > 50)
  await workersOf(port, 40)
  for (const answer of await Promise.all(slow)) assert.equal(Number(bodyOf(answer)), own)
})

test('guarantee 10, clean ends: close() waits for no silent peer longer than for others', async (t) => {
  const { primary, port } = await balanced(t, { options: { maxRetries: 2, retryDelay: 50, behindProxy: true } })
  const before = fdCount(primary.pid)
  const peers = await Promise.all(Array.from({ length: 20 }, () => connect(port)))
  await until(async () => (await primary.call('stats')).identifying === 20)
  await Promise.all([primary.call('close'), ...peers.map((peer) => readAll(peer))])
  await until(() => fdCount(primary.pid) < before)
  assert.equal((await primary.call('stats')).identifying, 0)
})

/** A request on a connection of this agent's. */
const ask = (port, agent, headers) => request(port, { agent, headers })

function keepAlive(t) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  return agent
}

test('a kept connection ends with the response to a client of another slot, and then they all do', async (t) => {
  const { port } = await behind(t)
  const workers = await workersOf(port)
  const first = 0
  const same = workers.findIndex((worker, n) => n !== first && worker === workers[first])
  const other = workers.findIndex((worker) => worker !== workers[first])
  const agent = keepAlive(t)
  const asked = async (n) => {
    const { body, headers } = await ask(port, agent, { 'X-Forwarded-For': client(n) })
    return [Number(body), headers.connection]
  }
  // One connection, several clients of one slot: nothing is wrong with that.
  for (const n of [first, same, first]) assert.deepEqual(await asked(n), [workers[first], 'keep-alive'])
  // On the wrong worker, but for the last time.
  assert.deepEqual(await asked(other), [workers[first], 'close'])
  assert.deepEqual(await asked(other), [workers[other], 'keep-alive'])
  // That worker knows by now that connections are pooled.
  assert.deepEqual(await asked(first), [workers[other], 'close'])
  assert.deepEqual(await asked(first), [workers[first], 'close'])
  assert.deepEqual(await asked(other), [workers[other], 'close'])
})

test('a kept connection to a worker that was replaced ends with its next response', async (t) => {
  const { primary, port } = await balanced(t, { workers: 2, options: PATIENT, manager: 'recluster' })
  const agents = Array.from({ length: 16 }, () => keepAlive(t))
  const asked = () => Promise.all(agents.map((agent) => ask(port, agent, {})))
  const [{ body: old }] = await asked()
  const pids = (await primary.call('stats')).slots.map(({ pid }) => pid)
  const reloaded = primary.call('reload')
  await until(async () => (await primary.call('stats')).slots.every(({ pid }) => pid && !pids.includes(pid)))
  await reloaded
  // Told over IPC; the answer of the first request after that may have overtaken it.
  await until(async () => (await asked()).every(({ body }) => body !== old))
  for (const { headers } of await asked()) assert.equal(headers.connection, 'keep-alive')
})
