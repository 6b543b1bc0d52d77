'use strict'

// With `proxyProtocol`, connections begin with a PROXY header: taken off to the byte, and its client is the
// peer from there on. The workers are processes; the balancer is in the test's own where its counters are
// looked at closely, else in a primary of its own.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const http2 = require('node:http2')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')
const { before, test } = require('node:test')
const tls = require('node:tls')
const sticky = require('..')
const { selfSigned } = require('./support/certificates')
const { connect, loopback, readAll, until } = require('./support/client')
const { directory } = require('./support/places')
const { balanced, signal, start } = require('./support/process')

// For what never comes.
const TIMEOUT = { timeout: 15_000 }

const PATIENT = { maxRetries: 400, retryDelay: 150 }

const CLOSE = { connection: 'close' }

// --- Headers -------------------------------------------------------------------------------------

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')

/**
 * A header of version 2.
 * @param {number} command 0 LOCAL, 1 PROXY
 * @param {number} family and transport, as the protocol has them in one byte
 * @param {Buffer} [payload]
 */
function v2(command, family, payload = Buffer.alloc(0)) {
  const head = Buffer.from([0x20 | command, family, 0, 0])
  head.writeUInt16BE(payload.length, 2)
  return Buffer.concat([SIGNATURE, head, payload])
}

/** The bytes of an address. */
function bytesOf(address) {
  if (net.isIPv4(address)) return Buffer.from(address.split('.').map(Number))
  const words = (text) => text.split(':').filter(Boolean)
  const [left, right = ''] = address.split('::').map(words)
  const all = [...left, ...Array(8 - left.length - right.length).fill('0'), ...right]
  return Buffer.from(all.map((word) => word.padStart(4, '0')).join(''), 'hex')
}

function payload(from, to, fromPort, toPort) {
  const ports = Buffer.alloc(4)
  ports.writeUInt16BE(fromPort, 0)
  ports.writeUInt16BE(toPort, 2)
  return Buffer.concat([bytesOf(from), bytesOf(to), ports])
}

function tlv(type, value) {
  const head = Buffer.from([type, 0, 0])
  head.writeUInt16BE(value.length, 1)
  return Buffer.concat([head, value])
}

/** A header of version 1 for that client. */
const from = (address, port = 4660) => {
  const [family, to] = net.isIPv4(address) ? ['TCP4', '198.51.100.7'] : ['TCP6', '2001:db8::ffff']
  return `PROXY ${family} ${address} ${to} ${port} 443\r\n`
}

const V4 = payload('192.0.2.1', '198.51.100.7', 4660, 443)
const V6 = payload('2001:db8::1', '2001:db8::2', 65535, 443)
const TLVS = [
  // ALPN, a checksum, a unique ID, no operation, AWS's own.
  tlv(0x01, Buffer.from('h2')),
  tlv(0x03, Buffer.alloc(4, 7)),
  tlv(0x05, Buffer.alloc(16, 1)),
  tlv(0x04, Buffer.from('\r\n\r\nPROXY ')),
  tlv(0xea, Buffer.from('\x01vpce-1')),
]

const CLIENT_V4 = { address: '192.0.2.1', port: 4660, family: 'IPv4' }
const CLIENT_V6 = { address: '2001:db8::1', port: 65535, family: 'IPv6' }

/** Headers, and the client that each names. */
const HEADERS = {
  'v1 TCP4': ['PROXY TCP4 192.0.2.1 198.51.100.7 4660 443\r\n', CLIENT_V4],
  'v1 TCP6': ['PROXY TCP6 2001:db8::1 2001:db8::2 65535 443\r\n', CLIENT_V6],
  'v1 UNKNOWN': ['PROXY UNKNOWN\r\n'],
  'v1 UNKNOWN with more words': ['PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n'],
  'v2 TCP4': [v2(1, 0x11, V4), CLIENT_V4],
  'v2 TCP4 with TLVs': [v2(1, 0x11, Buffer.concat([V4, ...TLVS])), CLIENT_V4],
  'v2 UDP4': [v2(1, 0x12, V4), CLIENT_V4],
  'v2 TCP6': [v2(1, 0x21, V6), CLIENT_V6],
  'v2 TCP6 with TLVs': [v2(1, 0x21, Buffer.concat([V6, ...TLVS])), CLIENT_V6],
  'v2 unix': [v2(1, 0x31, Buffer.alloc(216, '/run/socket'))],
  'v2 UNSPEC': [v2(1, 0x00)],
  'v2 UNSPEC with TLVs': [v2(1, 0x00, Buffer.concat(TLVS))],
  'v2 LOCAL': [v2(0, 0x00)],
  'v2 LOCAL with an address': [v2(0, 0x11, V4)],
}

// --- Processes -----------------------------------------------------------------------------------

/** @type {{ [option: string]: string }} the servers' key and certificate */
let secure

before(() => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
  secure = selfSigned(folder)
  fs.rmSync(folder, { recursive: true })
})

const trusting = () => ({ ca: secure.cert, servername: 'localhost' })

/**
 * Workers with servers of all kinds.
 * @param {import('node:test').TestContext} t
 */
async function workersOf(t, count = 1) {
  const workers = Array.from({ length: count }, () => start(t, 'client-worker.js', { args: [secure] }))
  for (const worker of workers) await worker.next('ready')
  return workers
}

/**
 * A balancer in this process, with a slot for each of these workers.
 * @param {import('node:test').TestContext} t
 * @param {import('./support/process').Fixture[]} workers
 */
async function balancing(t, workers, { at = [0, '127.0.0.1'], ...options } = {}) {
  const activeWorkers = () => workers.map(({ child }) => child)
  const balancer = sticky.createBalancer({ ...PATIENT, proxyProtocol: true, activeWorkers, ...options })
  t.after(() => balancer.close())
  balancer.listen(...at)
  await once(balancer, 'listening')
  await until(() => balancer.stats().slots.length > 0 && balancer.stats().slots.every(({ pid }) => pid))
  return balancer
}

/** Writes, and waits until the system has it. */
const written = (socket, bytes) => new Promise((resolve) => socket.write(bytes, resolve))

/** The next bytes, exactly so many; what follows them stays. */
function read(socket, length) {
  return new Promise((resolve, reject) => {
    const chunks = []
    let missing = length
    const settle = (outcome, value) => {
      socket.off('data', onData).off('close', onClose).off('error', reject).pause()
      outcome(value)
    }
    const onData = (chunk) => {
      chunks.push(chunk.subarray(0, missing))
      if (chunk.length > missing) socket.unshift(chunk.subarray(missing))
      missing -= Math.min(missing, chunk.length)
      if (missing === 0) settle(resolve, Buffer.concat(chunks))
    }
    const onClose = () => settle(reject, new Error(`the connection ended ${missing} bytes early`))
    socket.on('data', onData).on('close', onClose).on('error', reject).resume()
  })
}

/**
 * One request, behind a PROXY header; returns what the server says of its client.
 * @param {number | string} at a port or a path
 * @param {string | Buffer} header
 * @param {{ proxy?: string, headers?: object, path?: string }} [options]
 */
async function ask(at, header, { proxy: localAddress, ...options } = {}) {
  const socket = net.connect(typeof at === 'string' ? { path: at } : { port: at, host: '127.0.0.1', localAddress })
  socket.write(header)
  const sent = http.get({ createConnection: () => socket, headers: CLOSE, ...options })
  const [response] = await once(sent, 'response')
  return { ...JSON.parse(await readAll(response)), own: { address: localAddress, port: socket.localPort } }
}

// --- What arrives --------------------------------------------------------------------------------

// Each byte there is, with what looks like headers.
const BINARY = Buffer.concat([
  SIGNATURE,
  Buffer.from('PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n'),
  Buffer.from(Array.from({ length: 256 }, (_, n) => n)),
])

test('the header is taken off to the byte, however it is cut', TIMEOUT, async (t) => {
  const [worker] = await workersOf(t)
  const balancer = await balancing(t, [worker], { name: 'echo' })
  const { port } = balancer.address()
  for (const [name, [header]] of Object.entries(HEADERS)) {
    const bytes = Buffer.concat([Buffer.from(header), BINARY])
    const heads = Buffer.byteLength(header)
    await t.test(`${name}: at each of its ${heads} bytes`, async () => {
      const sockets = await Promise.all(Array.from({ length: heads + 1 }, () => connect(port)))
      await Promise.all(sockets.map((socket, cut) => cut > 0 && written(socket, bytes.subarray(0, cut))))
      // All but the last, whose header is whole.
      await until(() => balancer.stats().identifying === heads)
      const echoes = sockets.map((socket, cut) => {
        socket.write(bytes.subarray(cut))
        return read(socket, BINARY.length)
      })
      for (const [cut, echo] of (await Promise.all(echoes)).entries()) assert.deepEqual(echo, BINARY, `cut at ${cut}`)
      for (const socket of sockets) socket.destroy()
    })
    await t.test(`${name}: in one segment, and byte by byte`, async () => {
      for (const step of [bytes.length, 1]) {
        const socket = await connect(port)
        socket.setNoDelay(true)
        for (let n = 0; n < bytes.length; n += step) await written(socket, bytes.subarray(n, n + step))
        assert.deepEqual(await read(socket, BINARY.length), BINARY)
        socket.end()
        assert.equal(await readAll(socket), '')
      }
    })
  }
  const { accepted, adopted, rejected, gone } = balancer.stats()
  assert.deepEqual({ adopted, rejected, gone }, { adopted: accepted, rejected: 0, gone: 0 })
})

test('a request in the same segment arrives whole', TIMEOUT, async (t) => {
  const { port } = await balanced(t, { worker: 'client-worker.js', options: { ...PATIENT, proxyProtocol: true } })
  const body = 'The quick brown fox. '.repeat(5000)
  for (const [header] of Object.values(HEADERS)) {
    const head = `POST /echo HTTP/1.0\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`
    const socket = await connect(port)
    socket.write(Buffer.concat([Buffer.from(header), Buffer.from(head + body)]))
    const answer = await readAll(socket)
    assert.match(answer, /^HTTP\/1\.1 200 /)
    assert.equal(answer.slice(answer.indexOf('\r\n\r\n') + 4), body)
  }
})

test('a server may speak first, and a client that ends its side is served', TIMEOUT, async (t) => {
  const [worker] = await workersOf(t)
  const { port } = (await balancing(t, [worker], { name: 'greeting' })).address()
  for (const [header] of Object.values(HEADERS)) {
    const socket = await connect(port)
    socket.write(header)
    assert.equal(String(await read(socket, 6)), 'hello\n')
    socket.end('goodbye')
    assert.equal(await readAll(socket), 'goodbye')
    const hasty = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    hasty.end(Buffer.concat([Buffer.from(header), Buffer.from('bye')]))
    assert.equal(await readAll(hasty), 'hello\nbye')
  }
})

// --- Who the client is ---------------------------------------------------------------------------

/** For each kind of server, how to ask it on a connection that has begun with a header. */
const ASK = {
  async default(socket) {
    const [response] = await once(http.get({ createConnection: () => socket, headers: CLOSE }), 'response')
    return readAll(response)
  },
  async https(socket) {
    const secured = tls.connect({ socket, ...trusting() })
    const [response] = await once(http.get({ createConnection: () => secured, headers: CLOSE }), 'response')
    return readAll(response)
  },
  http2: (socket) => stream(http2.connect('http://localhost', { createConnection: () => socket })),
  http2secure: (socket) =>
    stream(
      http2.connect('https://localhost', {
        createConnection: () => tls.connect({ socket, ALPNProtocols: ['h2'], ...trusting() }),
      }),
    ),
  net: (socket) => readAll(socket),
  tls: (socket) => readAll(tls.connect({ socket, ...trusting() })),
}

async function stream(session) {
  const text = await readAll(session.request({ ':path': '/' }))
  session.destroy()
  return text
}

test('in the worker the client is the peer, and the proxy is asked for', TIMEOUT, async (t) => {
  const workers = await workersOf(t)
  const folder = directory(t)
  for (const [name, ask] of Object.entries(ASK)) {
    await t.test(name, async () => {
      const { port } = (await balancing(t, workers, { name })).address()
      for (const [header, client] of Object.values(HEADERS)) {
        const socket = await connect(port, loopback(7))
        const peer = { address: loopback(7), port: socket.localPort, family: 'IPv4' }
        socket.write(header)
        const { client: seen, proxy } = JSON.parse(await ask(socket))
        assert.deepEqual([seen, proxy], client ? [client, peer] : [peer, undefined])
        socket.destroy()
      }
    })
    await t.test(`${name}, through a unix socket`, async () => {
      const at = path.join(folder, name)
      await balancing(t, workers, { name, at: [at] })
      for (const [header, client] of Object.values(HEADERS)) {
        const socket = net.connect({ path: at })
        socket.write(header)
        const { client: seen, proxy } = JSON.parse(await ask(socket))
        assert.deepEqual([seen, proxy], client ? [client, {}] : [{}, undefined])
        socket.destroy()
      }
    })
  }
})

test('a balancer at an IPv6 address', TIMEOUT, async (t) => {
  const { port } = (await balancing(t, await workersOf(t), { name: 'net', at: [0, '::1'] })).address()
  for (const [header, client] of Object.values(HEADERS)) {
    const socket = net.connect({ port, host: '::1' })
    await once(socket, 'connect')
    const peer = { address: '::1', port: socket.localPort, family: 'IPv6' }
    socket.write(header)
    const { client: seen, proxy } = JSON.parse(await readAll(socket))
    assert.deepEqual([seen, proxy], client ? [client, peer] : [peer, undefined])
  }
})

test("the client's address decides the slot, not the proxy's", TIMEOUT, async (t) => {
  const options = { ...PATIENT, proxyProtocol: true }
  const { port } = await balanced(t, { workers: 3, worker: 'client-worker.js', options })
  const seen = new Map()
  for (let n = 0; n < 40; n++) {
    const address = `192.0.2.${n}`
    const mapped = v2(1, 0x21, payload(`::ffff:c000:2${n.toString(16).padStart(2, '0')}`, '::1', n, 443))
    const headers = [from(address, n), from(`::ffff:${address}`, n), v2(1, 0x11, payload(address, '::', 9, 9)), mapped]
    const pids = []
    for (const [at, header] of headers.entries()) {
      pids.push((await ask(port, header, { proxy: loopback(10 * n + at) })).pid)
    }
    assert.equal(new Set(pids).size, 1, `${address} reached ${pids}`)
    seen.set(address, pids[0])
  }
  assert.equal(new Set(seen.values()).size, 3)
  // Where the header names nobody, the peer is the client.
  for (let n = 0; n < 40; n++) {
    const pids = []
    for (const header of [from(loopback(n)), 'PROXY UNKNOWN\r\n', v2(0, 0x11, V4)]) {
      pids.push((await ask(port, header, { proxy: loopback(n) })).pid)
    }
    assert.equal(new Set(pids).size, 1, `${loopback(n)} reached ${pids}`)
  }
})

// --- Who is turned away --------------------------------------------------------------------------

const REJECTED = {
  'a request without a header': 'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
  'a TLS hello': Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
  'one wrong byte': 'X',
  zeroes: Buffer.alloc(4096),
  'v1 in lower case': 'proxy TCP4 192.0.2.1 198.51.100.7 4660 443\r\n',
  'v1 without a transport': 'PROXY\r\n',
  'v1 of another transport': 'PROXY UDP4 192.0.2.1 198.51.100.7 4660 443\r\n',
  'v1 with an address of the other family': 'PROXY TCP4 ::1 ::2 4660 443\r\n',
  'v1 with a port too large': 'PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n',
  'v1 without a port': 'PROXY TCP4 192.0.2.1 198.51.100.7 4660\r\n',
  'v1 without CR': 'PROXY TCP4 192.0.2.1 198.51.100.7 4660 443\n',
  'v1 that is too long': `PROXY UNKNOWN ${'x'.repeat(100)}\r\n`,
  'v1 that has no end': `PROXY TCP4 ${'1'.repeat(2000)}`,
  'v2 of version 3': Buffer.concat([SIGNATURE, Buffer.from([0x31, 0x11, 0, 12]), V4]),
  'v2 with an unknown command': v2(2, 0x11, V4),
  'v2 with an unknown family': v2(1, 0x41, V4),
  'v2 with an unknown transport': v2(1, 0x13, V4),
  'v2 shorter than its addresses': v2(1, 0x11, V4.subarray(1)),
  'v2 longer than maxHeaderSize': v2(1, 0x11, Buffer.concat([V4, tlv(0x04, Buffer.alloc(1000))])),
}

// The client stays, and sends nothing more.
const UNFINISHED = {
  nothing: '',
  'one byte of v1': 'P',
  'v1 without its end': 'PROXY TCP4 192.0.2.1 198.51.100.7 4660 443\r',
  'one byte of v2': '\r',
  'v2 without its last byte': v2(1, 0x11, V4).subarray(0, -1),
}

/** Waits until the other side has closed the connection, or reset it, without a word. */
function closed(socket) {
  return new Promise((resolve, reject) => {
    socket.on('error', () => {})
    socket.on('data', (data) => reject(new Error(`an answer: ${data}`)))
    socket.on('close', resolve)
  })
}

for (const [name, cases, headerTimeout] of [
  ['a connection without a valid header is closed at once', REJECTED, 60_000],
  ['a header that never ends is waited for no longer than headerTimeout', UNFINISHED, 100],
]) {
  test(name, TIMEOUT, async (t) => {
    const [worker] = await workersOf(t)
    const balancer = await balancing(t, [worker], { headerTimeout, maxHeaderSize: 256 })
    const { port } = balancer.address()
    let rejected = 0
    for (const [what, bytes] of Object.entries(cases)) {
      await t.test(what, async () => {
        const began = performance.now()
        const socket = await connect(port)
        const end = closed(socket)
        if (bytes.length > 0) socket.write(bytes)
        await end
        if (cases === UNFINISHED) assert.ok(performance.now() - began >= headerTimeout - 1)
        assert.equal(balancer.stats().rejected, ++rejected)
      })
      await t.test(`${what}, byte by byte`, async () => {
        const socket = await connect(port)
        const end = closed(socket)
        socket.setNoDelay(true)
        for (const byte of Buffer.from(bytes)) {
          if (!socket.writable) break
          await written(socket, Buffer.from([byte]))
        }
        await end
        assert.equal(balancer.stats().rejected, ++rejected)
      })
    }
    const { accepted, adopted, delivered, refused, gone, identifying } = balancer.stats()
    const expected = { accepted: rejected, adopted: 0, delivered: 0, refused: 0, gone: 0, identifying: 0 }
    assert.deepEqual({ accepted, adopted, delivered, refused, gone, identifying }, expected)
    assert.equal(await worker.call('connections'), 0)
  })
}

test('who leaves without a word is gone, who leaves amid a header is rejected', TIMEOUT, async (t) => {
  const [worker] = await workersOf(t)
  const balancer = await balancing(t, [worker])
  const { port } = balancer.address()
  const identified = (count) => until(() => balancer.stats().identifying === count)
  const leave = ['end', 'destroy', 'resetAndDestroy']
  // At once, before and after they were noticed.
  for (const way of leave) (await connect(port))[way]()
  await until(() => balancer.stats().gone === leave.length)
  for (const way of leave) {
    const socket = await connect(port)
    await identified(1)
    socket[way]()
    await identified(0)
  }
  assert.equal(balancer.stats().gone, 2 * leave.length)
  assert.equal(balancer.stats().rejected, 0)
  for (const way of ['end', 'destroy']) {
    const socket = await connect(port)
    const end = closed(socket)
    await written(socket, 'PROXY TCP4 192.0.2.1')
    await identified(1)
    socket[way]()
    await Promise.all([end, identified(0)])
  }
  assert.deepEqual([balancer.stats().rejected, balancer.stats().gone], [2, 2 * leave.length])
  assert.equal(await worker.call('connections'), 0)
})

// --- Whose word counts ---------------------------------------------------------------------------

test('trustProxy: networks may speak the protocol, nobody else', TIMEOUT, async (t) => {
  const [worker] = await workersOf(t)
  for (const trustProxy of ['127.0.0.8/30', ['127.0.0.9', '::ffff:127.0.0.10/127']]) {
    const balancer = await balancing(t, [worker], { trustProxy, headerTimeout: 60_000 })
    const { port } = balancer.address()
    for (const proxy of ['127.0.0.9', '127.0.0.10', '127.0.0.11']) {
      assert.deepEqual((await ask(port, from('192.0.2.1'), { proxy })).client, CLIENT_V4)
    }
    const before = await worker.call('connections')
    const strangers = ['127.0.0.7', '127.0.0.12', '127.0.0.1']
    // Whatever they say, and if they say nothing.
    for (const bytes of [from('192.0.2.1'), 'PROXY UNKNOWN\r\n', '']) {
      for (const proxy of strangers) {
        const socket = await connect(port, proxy)
        const end = closed(socket)
        if (bytes) socket.write(bytes)
        await end
      }
    }
    assert.equal(balancer.stats().rejected, 3 * strangers.length)
    assert.equal(await worker.call('connections'), before)
  }
})

test('trustProxy: a number of hops says nothing of the protocol', TIMEOUT, async (t) => {
  const workers = await workersOf(t)
  for (const trustProxy of [0, 1, 2]) {
    const { port } = (await balancing(t, workers, { trustProxy })).address()
    assert.deepEqual((await ask(port, from('192.0.2.1'))).client, CLIENT_V4)
  }
})

test('trustProxy: a peer on a unix socket is trusted', TIMEOUT, async (t) => {
  const at = path.join(directory(t), 'socket')
  await balancing(t, await workersOf(t), { at: [at], trustProxy: '10.0.0.0/8' })
  assert.deepEqual((await ask(at, from('192.0.2.1'))).client, CLIENT_V4)
})

test('with behindProxy, the request decides the slot and the header is its peer', TIMEOUT, async (t) => {
  const workers = await workersOf(t, 3)
  const trustProxy = ['127.0.0.0/8', '10.1.0.0/16']
  const balancer = await balancing(t, workers, { behindProxy: true, trustProxy })
  const { port } = balancer.address()
  const asked = async (source, forwarded, proxy = loopback(0)) => {
    const headers = { ...CLOSE, ...(forwarded && { 'x-forwarded-for': forwarded }) }
    const answer = await ask(port, from(source), { proxy, headers })
    assert.deepEqual(answer.client, { address: source, port: 4660, family: 'IPv4' })
    assert.deepEqual(answer.proxy, { ...answer.own, family: 'IPv4' })
    return answer.pid
  }
  const pids = new Set()
  for (let n = 0; n < 30; n++) {
    const client = `192.0.2.${n}`
    const itself = await asked(client)
    pids.add(itself)
    // By whatever way, if all on it are trusted.
    assert.equal(await asked('10.1.0.1', client), itself)
    assert.equal(await asked(`10.1.0.${n}`, `203.0.113.${n}, ${client}, 10.1.9.9`, loopback(n)), itself)
    // The word of a source that is not trusted does not count, though the proxy's does.
    assert.equal(await asked(client, '192.0.2.77'), itself)
    assert.equal(await asked(client, '192.0.2.78, 10.1.0.1', loopback(n)), itself)
  }
  assert.equal(pids.size, 3)
  // In pieces: the header alone, then the request's head, byte by byte.
  const socket = await connect(port, loopback(3))
  socket.setNoDelay(true)
  await written(socket, from('10.1.0.1'))
  await until(() => balancer.stats().identifying === 1)
  const head = 'GET / HTTP/1.0\r\nX-Forwarded-For: 192.0.2.5\r\n\r\n'
  for (const byte of head) await written(socket, byte)
  const { pid, client } = JSON.parse((await readAll(socket)).split('\r\n\r\n')[1])
  assert.equal(pid, await asked('192.0.2.5'))
  assert.equal(client.address, '10.1.0.1')
})

test('with behindProxy, a request that does not come is of the client that the header names', TIMEOUT, async (t) => {
  const workers = await workersOf(t, 3)
  const options = { name: 'net', behindProxy: true, headerTimeout: 100 }
  const { port } = (await balancing(t, workers, options)).address()
  const { port: other } = (await balancing(t, workers, { name: 'net', seed: 'another' })).address()
  const [socket, direct] = [await connect(port), await connect(other)]
  for (const one of [socket, direct]) one.write(from('192.0.2.1'))
  for (const one of [socket, direct]) assert.deepEqual(JSON.parse(await readAll(one)).client, CLIENT_V4)
})

// --- What a worker leaves behind -------------------------------------------------------------------

test('what a stuck worker had not adopted goes to its successor, clients and all', TIMEOUT, async (t) => {
  const options = { ...PATIENT, proxyProtocol: true }
  const { primary, port } = await balanced(t, { worker: 'client-worker.js', options })
  const { pid: stuck } = await ask(port, from('192.0.2.1'), { path: '/block' })
  const ports = Array.from({ length: 200 }, (_, n) => n + 1)
  // More than may be in flight: some are in the worker's socket, others wait in the primary.
  const answers = ports.map((n) => ask(port, from('192.0.2.1', n), { proxy: loopback(n) }))
  // Between them, one whose header names nobody.
  const unnamed = ask(port, 'PROXY UNKNOWN\r\n', { proxy: '127.0.0.1' })
  await until(async () => {
    const { slots, waiting, accepted } = await primary.call('stats')
    const slot = slots.find(({ pid }) => pid === stuck)
    return slot.inFlight > 100 && slot.inFlight + waiting >= ports.length && accepted === ports.length + 2
  })
  signal(stuck, 'SIGKILL')
  for (const [n, { pid, client, proxy }] of (await Promise.all(answers)).entries()) {
    assert.notEqual(pid, stuck)
    assert.deepEqual(client, { address: '192.0.2.1', port: ports[n], family: 'IPv4' })
    assert.equal(proxy.address, loopback(ports[n]))
  }
  const { client, proxy } = await unnamed
  assert.deepEqual([client.address, proxy], ['127.0.0.1', undefined])
  const { redelivered, rejected, refused, adopted } = await primary.call('stats')
  assert.ok(redelivered > 100)
  assert.deepEqual({ rejected, refused, adopted }, { rejected: 0, refused: 0, adopted: ports.length + 2 })
})
