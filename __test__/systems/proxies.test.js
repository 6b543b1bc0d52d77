'use strict'

// Behind real proxies, configured as examples/proxies says. These tests need nginx with its stream module,
// HAProxy and Caddy; where one is missing, they are skipped on a developer's machine and fail in CI.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const { json } = require('node:stream/consumers')
const { test: nodeTest } = require('node:test')
const tls = require('node:tls')
const { io } = require('socket.io-client')
const { selfSigned } = require('../support/certificates')
const { loopback, parallel } = require('../support/client')
const { directory } = require('../support/places')
const {
  ask,
  measurePool,
  missingProxies,
  percent,
  POOLS,
  POOL_TIMEOUT,
  proxied,
  SHARING,
  WORKERS,
} = require('../support/proxies')

const TIMEOUT = 60_000

const skip = missingProxies()
const test = (name, options, body) => nodeTest(name, { skip, ...options }, body)

const FOR = { behindProxy: true }
const FORWARDED = { behindProxy: true, cipHeader: 'forwarded' }
const PROXY = { proxyProtocol: true }

/** Counts per worker are even: below the upper 0.1 % point for 3 degrees of freedom. */
function assertEven(counts) {
  assert.equal(counts.length, WORKERS)
  const expected = counts.reduce((sum, count) => sum + count) / WORKERS
  const chiSquare = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
  assert.ok(chiSquare < 16.3, `chi-square is ${chiSquare} for ${counts}`)
}

// ---- Every client has its worker ----

// Names that a client may give itself; not the same ones every time, and some with a quotation mark that opens and
// would swallow what a proxy adds.
const lies = (n) => {
  const mark = n % 2 === 0 ? '' : '"'
  return { 'x-forwarded-for': `${mark}203.0.113.${n % 256}`, forwarded: `for=${mark}203.0.113.${n % 256}` }
}

const ADDED = [['For $remote_addr', 'For $proxy_add_x_forwarded_for']]

const SINGLE = [
  ['nginx-x-forwarded-for.conf', FOR],
  ['nginx-forwarded.conf', FORWARDED],
  ['nginx-proxy-protocol.conf', PROXY],
  ['haproxy-x-forwarded-for.cfg', FOR],
  ['haproxy-forwarded.cfg', FORWARDED],
  ['haproxy-proxy-protocol-v1.cfg', PROXY],
  ['haproxy-proxy-protocol-v2.cfg', PROXY],
  ['Caddyfile', FOR, 100],
  // As the comments in these files propose. All clients are at loopback addresses here, and only the first of
  // these is a proxy's.
  ['nginx-x-forwarded-for.conf', { ...FOR, trustProxy: 1 }, 100, ADDED],
  ['nginx-x-forwarded-for.conf', { ...FOR, trustProxy: ['127.0.0.1', '192.0.2.0/24'] }, 100, ADDED],
  ['haproxy-x-forwarded-for.cfg', { ...FOR, trustProxy: 1 }, 100, [['http-request del-header X-Forwarded-For', '']]],
  ['haproxy-x-forwarded-for.cfg', FOR, 100, [['option http-server-close', 'http-reuse never']]],
]

for (const [file, options, count = 500, changes = []] of SINGLE) {
  const said = changes.length > 0 ? ` with '${changes[0][1]}' for '${changes[0][0]}'` : ''
  const title = `${file}${said}, ${JSON.stringify(options)}: ${count} clients, none moves`
  test(title, { timeout: TIMEOUT }, async (t) => {
    const { primary, port } = await proxied(t, { file, changes, options })
    const workers = []
    await parallel(count, 16, async (n) => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      try {
        const answers = [
          // On one connection, as long as the proxy keeps it; then on another.
          await ask(port, n, { agent }),
          await ask(port, n, { agent, headers: lies(n) }),
          await ask(port, n, { headers: lies(7 * n) }),
        ]
        for (const { status, pid, clients, address, port: remotePort, family, proxy, localPort } of answers) {
          assert.equal(status, 200)
          assert.equal(pid, answers[0].pid, `client ${n} reached another worker`)
          assert.equal(clients, 1, 'a connection from the proxy is of one client')
          assert.equal(family, 'IPv4')
          if (options.proxyProtocol) {
            assert.deepEqual([address, remotePort], [loopback(n), localPort])
            assert.deepEqual([proxy.address, proxy.family], ['127.0.0.1', 'IPv4'])
            assert.notEqual(proxy.port, remotePort)
          } else {
            assert.deepEqual([address, proxy], ['127.0.0.1', undefined])
          }
        }
        workers[n] = answers[0].pid
      } finally {
        agent.destroy()
      }
    })
    const counts = new Map()
    for (const pid of workers) counts.set(pid, (counts.get(pid) ?? 0) + 1)
    assertEven([...counts.values()])
    const { rejected, refused } = await primary.call('stats')
    assert.deepEqual([rejected, refused], [0, 0])
  })
}

// ---- TLS that ends in the workers ----

/** As ask(), over https. */
async function askSecurely(port, n, ca) {
  const options = { host: '127.0.0.1', port, agent: false, localAddress: loopback(n), ca, servername: 'localhost' }
  const sent = https.get(options)
  const [response] = await once(sent, 'response')
  const { localPort } = response.socket
  return { localPort, ...(await json(response)) }
}

/** As ask(), over HTTP/2. */
async function askTwo(port, n, ca) {
  const secure = { host: '127.0.0.1', port, localAddress: loopback(n), ca, servername: 'localhost' }
  const socket = tls.connect({ ...secure, ALPNProtocols: ['h2'] })
  await once(socket, 'secureConnect')
  const { localPort } = socket
  const session = http2.connect('https://localhost', { createConnection: () => socket })
  try {
    return { localPort, ...(await json(session.request())) }
  } finally {
    session.close()
  }
}

for (const file of ['nginx-proxy-protocol.conf', 'haproxy-proxy-protocol-v2.cfg']) {
  test(`${file}: https and HTTP/2 reach the workers, and so do the clients' addresses`, {
    timeout: TIMEOUT,
  }, async (t) => {
    const folder = directory(t)
    const { cert: ca } = selfSigned(folder)
    const { port } = await proxied(t, { file, options: PROXY, env: { STICKY_TEST_TLS: folder } })
    const workers = new Set()
    await parallel(40, 8, async (n) => {
      const answers = [await askSecurely(port, n, ca), await askTwo(port, n, ca)]
      assert.deepEqual(
        answers.map(({ version }) => version),
        ['1.1', '2.0'],
      )
      for (const { pid, address, port: remotePort, family, proxy, localPort } of answers) {
        assert.equal(pid, answers[0].pid, `client ${n} reached another worker`)
        assert.deepEqual([address, remotePort, family], [loopback(n), localPort, 'IPv4'])
        assert.equal(proxy.address, '127.0.0.1')
      }
      workers.add(answers[0].pid)
    })
    assert.equal(workers.size, WORKERS)
  })
}

// ---- socket.io ----

const SESSIONS = 32
const ECHOES = 5

/**
 * Some clients of socket.io, which say something now and then; all of it must reach the same worker.
 * @param {number} port
 * @param {{ transports: string[], upgraded?: boolean }} expected
 */
async function talk(port, { transports, upgraded }) {
  const workers = new Set()
  await parallel(SESSIONS, SESSIONS, async (n) => {
    // A connection for each request: that they reach the same worker all the same is what is tried.
    const agent = new http.Agent({ keepAlive: false, localAddress: loopback(n) })
    const socket = io(`http://127.0.0.1:${port}`, { transports, agent, forceNew: true, reconnection: false })
    try {
      await new Promise((resolve, reject) => {
        socket.once('connect', resolve)
        socket.once('connect_error', reject)
      })
      const lost = new Promise((_, reject) => {
        socket.once('disconnect', (reason, details) => reject(new Error(`client ${n}: ${reason} ${details?.message}`)))
      })
      lost.catch(() => {})
      const { engine } = socket.io
      if (upgraded && engine.transport.name !== 'websocket') {
        await Promise.race([lost, new Promise((resolve) => engine.once('upgrade', resolve))])
      }
      let worker
      for (let echo = 0; echo < ECHOES; echo++) {
        const text = `${n} says ${echo}`
        const answer = await Promise.race([lost, socket.emitWithAck('echo', text)])
        worker ??= answer.pid
        assert.deepEqual(answer, { text, pid: worker, astray: 0 })
      }
      assert.equal(engine.transport.name, upgraded ? 'websocket' : 'polling')
      workers.add(worker)
    } finally {
      socket.disconnect()
      agent.destroy()
    }
  })
  assert.equal(workers.size, WORKERS)
}

const HTTP = [
  ['nginx-x-forwarded-for.conf', FOR],
  ['nginx-forwarded.conf', FORWARDED],
  ['haproxy-x-forwarded-for.cfg', FOR],
  ['haproxy-forwarded.cfg', FORWARDED],
  ['Caddyfile', FOR],
]

for (const [file, options] of HTTP) {
  test(`${file}: socket.io sessions survive, long-polling and upgraded`, { timeout: TIMEOUT }, async (t) => {
    const { port } = await proxied(t, { file, worker: 'proxied-socket-io.js', options })
    await talk(port, { transports: ['polling'] })
    await talk(port, { transports: ['polling', 'websocket'], upgraded: true })
  })
}

// ---- Pools ----

/**
 * The share of requests that another worker answers than the client's own, which is the one that a request
 * without a pool reaches, once the pool has settled.
 */
async function misrouted(t, { file, changes, env }) {
  const { port, direct } = await proxied(t, { file, changes, options: FOR, env })
  const own = []
  await parallel(SHARING, 16, async (n) => {
    own[n] = (await ask(direct, n, { headers: { 'x-forwarded-for': loopback(n) } })).pid
  })
  assert.equal(new Set(own).size, WORKERS)
  return measurePool(t, port, async (n, ask) => (await ask()).pid !== own[n])
}

for (const [file, changes] of POOLS) {
  const name = file.match(/^[a-z]+/)[0]
  test(`a pool of ${name} settles: requests reach their own workers`, { timeout: POOL_TIMEOUT }, async (t) => {
    const { settled } = await misrouted(t, { file, changes })
    assert.ok(settled <= 0.02, percent(settled))
  })

  test(`a pool of ${name} that is kept, to compare: most requests go astray`, { timeout: POOL_TIMEOUT }, async (t) => {
    const { settled } = await misrouted(t, { file, changes, env: { STICKY_TEST_KEEP_ALIVE: 'always' } })
    assert.ok(settled > 0.3, percent(settled))
  })
}
