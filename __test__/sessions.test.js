'use strict'

// The option `affinity`: a session shows the token of its slot, and comes to that slot from wherever it is sent.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const { test } = require('node:test')
const sticky = require('..')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { signal } = require('./support/process')
const { served, sessions } = require('./support/sessions')

const QUERY = { affinity: { query: 'sid' } }

/** What a worker says to a request: its process id, and the token of the slot. */
async function ask(port, { sid, ...options } = {}) {
  const path = sid === undefined ? '/' : `/?EIO=4&sid=${sid}&t=x`
  const { status, body } = await request(port, { path, ...options })
  assert.equal(status, 200)
  return JSON.parse(body)
}

/** A session in each of so many slots: its token, by the process id of the worker. */
async function tokens(port, count) {
  const found = new Map()
  for (let n = 0; found.size < count; n++) {
    const { pid, token } = await ask(port, { localAddress: loopback(n) })
    found.set(pid, token)
  }
  return found
}

/** How far the fullest and the emptiest of some are from their mean, as a part of it. */
function deviation(counts) {
  const mean = counts.reduce((sum, count) => sum + count) / counts.length
  return Math.max(...counts.map((count) => Math.abs(count - mean))) / mean
}

test('guarantee 1, sticky: a session comes to its worker from any address, however its id shows the token', async (t) => {
  const { port } = await sessions(t, { options: QUERY })
  const found = await tokens(port, 4)
  assert.equal(new Set(found.values()).size, 4)
  await parallel(400, 8, async (n) => {
    const [pid, token] = [...found][n % 4]
    const sid = [token, `abc.${token}`, `a.b.${token}`, `x%2E${token}`][n % 3]
    const answer = await ask(port, { sid, localAddress: loopback(n) })
    assert.deepEqual(answer, { pid, token })
  })
})

test('clients behind one address are spread evenly, by what their workers have open', async (t) => {
  const { primary, port } = await sessions(t, { options: QUERY })
  const sockets = []
  t.after(() => sockets.map((socket) => socket.destroy()))
  /** A client that stays; and which worker it is at. */
  const stay = async () => {
    const socket = await connect(port)
    socket.write('GET /hold HTTP/1.1\r\nHost: x\r\n\r\n')
    const [answer] = await once(socket, 'data')
    const pid = Number(/"pid":(\d+)/.exec(answer)[1])
    sockets.push(Object.assign(socket, { pid }))
    return pid
  }
  const pids = await served(primary, 4)
  const counts = () => pids.map((pid) => sockets.filter((socket) => socket.pid === pid && !socket.destroyed).length)
  await parallel(400, 16, stay)
  assert.equal(sockets.length, 400)
  assert.ok(deviation(counts()) <= 0.1, `${counts()}`)
  // What has ended counts no more: a worker whose clients have left gets the next ones, one in two.
  for (const socket of sockets) if (socket.pid === pids[2]) socket.destroy()
  const before = counts()
  await until(async () => {
    await stay()
    return counts()[2] >= 60
  })
  const more = counts().map((count, slot) => count - before[slot])
  assert.ok(
    more.every((count, slot) => slot === 2 || count < 45),
    `${more}`,
  )
})

test('guarantee 3, keyed: a forged, old or foreign token is no error and chooses no slot', async (t) => {
  const { port } = await sessions(t, { options: QUERY })
  const other = await sessions(t, { workers: 2, options: QUERY })
  const found = await tokens(port, 4)
  const foreign = [...(await tokens(other.port, 2)).values()]
  const [token] = found.values()
  const forgeries = [
    ...foreign,
    token.slice(0, -1),
    `${token}A`,
    `${token}.`,
    token.replace(/./, (first) => (first === 'A' ? 'B' : 'A')),
    token.toLowerCase(),
    '',
    '0',
    'AAAAAAAAAAAAAAAA',
    '%00%ff',
    '..',
  ]
  for (const forgery of forgeries) {
    const answers = new Set()
    // One of two random slots: that 40 clients are all sent to one is as good as impossible.
    await parallel(40, 8, async () => answers.add((await ask(port, { sid: forgery })).pid))
    assert.ok(answers.size > 1, forgery)
  }
})

test('balancers with one seed know the tokens of each other', async (t) => {
  const options = { ...QUERY, seed: 'sessions.test.js' }
  const [here, there] = [await sessions(t, { workers: 2, options }), await sessions(t, { workers: 2, options })]
  const pids = await served(there.primary, 2)
  for (const token of (await tokens(here.port, 2)).values()) {
    const { slot } = await here.primary.call('slotOf', `id.${token}`)
    const answer = await ask(there.port, { sid: token })
    assert.deepEqual(answer, { pid: pids[slot], token })
  }
})

test('slots that come and go move no session but those of slots that are gone', async (t) => {
  const { primary, port } = await sessions(t, { options: QUERY })
  const before = await tokens(port, 4)
  await primary.call('resize', 6)
  const pids = await served(primary, 6)
  const later = await tokens(port, 6)
  for (const [pid, token] of before) assert.equal(later.get(pid), token)
  for (let round = 0; round < 10; round++) {
    for (const [pid, token] of later) assert.equal((await ask(port, { sid: token })).pid, pid)
  }
  await primary.call('resize', 4)
  await served(primary, 4)
  for (const [pid, token] of later) {
    const { pid: now, token: next } = await ask(port, { sid: token })
    if (pids.indexOf(pid) < 4) assert.deepEqual([now, next], [pid, token])
    // A session of a slot that is gone counts as a new one.
    else assert.notEqual(next, token)
  }
})

test('a successor inherits the sessions of its slot; new clients do not wait for it', async (t) => {
  const { primary, port } = await sessions(t, { options: QUERY })
  const pids = await served(primary, 4)
  const found = await tokens(port, 4)
  const token = found.get(pids[2])
  await primary.call('empty', 2)
  await until(async () => (await primary.call('stats')).slots[2].pid === null)
  const waiting = ask(port, { sid: token })
  await until(async () => (await primary.call('stats')).slots[2].waiting === 1)
  await parallel(40, 8, async () => assert.notEqual((await ask(port)).token, token))
  await primary.call('replace', 2)
  const { pid, token: same } = await waiting
  assert.equal(same, token)
  assert.ok(!pids.includes(pid))
  // A worker that is replaced while it lives has its successor at once.
  await primary.call('replace', 1)
  await until(async () => (await served(primary, 4))[1] !== pids[1])
  const inherited = await ask(port, { sid: found.get(pids[1]) })
  assert.equal(inherited.pid, (await served(primary, 4))[1])
})

test('guarantee 6, isolation: a worker that is stuck gets no new clients', async (t) => {
  const { primary, port } = await sessions(t, { workers: 3, options: QUERY })
  const [stuck, ...others] = await served(primary, 3)
  const found = await tokens(port, 3)
  // By what is open, the one that is stuck is the one with room.
  const held = []
  t.after(() => held.map((socket) => socket.destroy()))
  await parallel(400, 8, async (n) => {
    const socket = await connect(port)
    held.push(socket)
    socket.write(`GET /hold?sid=${found.get(others[n % 2])} HTTP/1.1\r\nHost: x\r\n\r\n`)
    await once(socket, 'data')
  })
  signal(stuck, 'SIGSTOP')
  const pending = async () => {
    const { accepted, identifying, slots } = await primary.call('stats')
    return { seen: accepted - identifying, sent: slots[0].inFlight + slots[0].waiting }
  }
  const asked = []
  // As long as nobody knows, it gets two new clients in three.
  await until(async () => {
    const before = await pending()
    for (let n = 0; n < 8; n++) asked.push(ask(port))
    await until(async () => (await pending()).seen === before.seen + 8)
    return before.sent > 0 && (await pending()).sent === before.sent
  })
  await parallel(60, 8, async () => assert.ok(others.includes((await ask(port)).pid)))
  signal(stuck, 'SIGCONT')
  await Promise.all(asked)
  await until(async () => (await ask(port)).pid === stuck)
})

test('guarantee 6, isolation: new clients that wait for a worker go to another when it is stuck', async (t) => {
  const { primary, port } = await sessions(t, { workers: 2, options: QUERY })
  const [stuck, other] = await served(primary, 2)
  signal(stuck, 'SIGSTOP')
  t.after(() => signal(stuck, 'SIGCONT'))
  const CLIENTS = 400
  // What was sent to it is its own.
  const SENT = 128
  let answered = 0
  const all = Array.from({ length: CLIENTS }, async () => {
    const { pid } = await ask(port)
    answered++
    return pid
  })
  await until(() => answered >= CLIENTS - SENT)
  signal(stuck, 'SIGCONT')
  const pids = await Promise.all(all)
  assert.ok(pids.filter((pid) => pid === other).length >= CLIENTS - SENT)
})

test('a connection on which nothing comes in time is closed, as nobody knows whose it is', async (t) => {
  const { primary, port } = await sessions(t, { workers: 2, options: { ...QUERY, headerTimeout: 100 } })
  const socket = await connect(port)
  assert.equal(await readAll(socket), '')
  assert.equal((await primary.call('stats')).gone, 1)
  // Who has begun goes by address.
  const slow = await connect(port)
  slow.write('GET /?sid=')
  await until(async () => (await primary.call('stats')).adopted === 1)
  slow.destroy()
})

test('a balancer that drains refuses new clients and keeps its sessions', async (t) => {
  const { primary, port } = await sessions(t, { options: QUERY })
  const found = await tokens(port, 4)
  await primary.call('drain')
  for (const [pid, token] of found) assert.equal((await ask(port, { sid: token })).pid, pid)
  for (const path of ['/', '/?sid=old']) {
    const { status, body, headers } = await request(port, { path })
    assert.equal(status, 503)
    assert.match(body, /no new clients are taken here/)
    assert.equal(headers['retry-after'], '1')
  }
  const { slot, status, reason } = await primary.next('refuse')
  assert.deepEqual({ slot, status, reason }, { slot: null, status: 503, reason: 'the balancer drains' })
  // Who shows no session, as there is nothing to be read, may have been here before.
  const socket = await connect(port)
  socket.end('\x16\x03\x01')
  assert.match(await readAll(socket), /^HTTP\/1.1 400/)
  await primary.call('drain', false)
  await ask(port)
})

test('with fallback to the address, who shows no session has the slot of its address', async (t) => {
  const options = { affinity: { query: 'sid', fallback: 'address' } }
  const { primary, port } = await sessions(t, { options })
  const pids = await served(primary, 4)
  const homes = new Set()
  for (let n = 0; n < 32; n++) {
    const localAddress = loopback(n)
    const { slot } = await primary.call('slotOf', localAddress)
    const { pid, token } = await ask(port, { localAddress })
    assert.equal(pid, pids[slot])
    homes.add(token)
    // The session stays where it began.
    assert.equal((await ask(port, { sid: token, localAddress: loopback(n + 1) })).pid, pid)
  }
  assert.equal(homes.size, 4)
})

test('with behindProxy and fallback to the address, the header names who shows no session', async (t) => {
  const options = { behindProxy: true, affinity: { query: 'sid', fallback: 'address' } }
  const { primary, port } = await sessions(t, { options })
  const pids = await served(primary, 4)
  const found = await tokensByHeader(port)
  for (const [address, { pid, token }] of found) {
    assert.equal(pid, pids[(await primary.call('slotOf', address)).slot])
    const elsewhere = { 'x-forwarded-for': '203.0.113.9' }
    assert.equal((await ask(port, { sid: token, headers: elsewhere })).pid, pid)
  }
})

/** What the workers say to clients that a proxy names. */
async function tokensByHeader(port) {
  const found = new Map()
  for (let n = 0; n < 16; n++) {
    const address = `192.0.2.${n}`
    found.set(address, await ask(port, { headers: { 'x-forwarded-for': address } }))
  }
  return found
}

test('behind a proxy that speaks the PROXY protocol, the request behind its header shows the session', async (t) => {
  const { primary, port } = await sessions(t, { options: { ...QUERY, proxyProtocol: true } })
  const [pid] = await served(primary, 4)
  const proxied = async (path, n) => {
    const socket = await connect(port)
    socket.end(`PROXY TCP4 192.0.2.${n} 127.0.0.1 ${n + 1} 80\r\nGET ${path} HTTP/1.0\r\n\r\n`)
    return JSON.parse((await readAll(socket)).split('\r\n\r\n')[1])
  }
  const { token } = await until(async () => {
    const answer = await proxied('/', 1)
    return answer.pid === pid && answer
  })
  for (let n = 0; n < 20; n++) assert.deepEqual(await proxied(`/?sid=${token}`, n), { pid, token })
})

test('what is no request of HTTP/1 goes by address', async (t) => {
  const { primary, port } = await sessions(t, { worker: 'worker-echo.js', options: QUERY })
  const pids = await served(primary, 4)
  for (let n = 0; n < 12; n++) {
    const localAddress = loopback(n)
    const socket = await connect(port, localAddress)
    socket.end('\x16\x03\x01 not HTTP')
    const pid = pids[(await primary.call('slotOf', localAddress)).slot]
    assert.equal(await readAll(socket), `${pid}\n\x16\x03\x01 not HTTP`)
  }
})

test('a kept connection ends with the response to a request of a session elsewhere', async (t) => {
  for (const affinity of [{ cookie: 'sid' }, { query: 'sid', fallback: 'address' }]) {
    const { port } = await sessions(t, { options: { affinity } })
    const [[pid, token], [, elsewhere]] = await tokens(port, 2)
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => agent.destroy())
    const kept = async (sid) => {
      const where = affinity.cookie ? { headers: { cookie: `sid=${sid}` } } : { path: `/?sid=${sid}` }
      const { body, headers } = await request(port, { agent, ...where })
      return { pid: JSON.parse(body).pid, connection: headers.connection }
    }
    assert.deepEqual(await kept(token), { pid, connection: 'keep-alive' })
    assert.deepEqual(await kept(token), { pid, connection: 'keep-alive' })
    // It came on a connection of the first one, and its answer says that this has to end.
    assert.deepEqual(await kept(elsewhere), { pid, connection: 'close' })
  }
})

test('a connection is not kept by a session of the query alone, as others may follow on it', async (t) => {
  for (const [affinity, requests] of [
    [
      { query: 'sid' },
      [
        ['/?sid=TOKEN', '', 'close'],
        ['/?sid=TOKEN', 'sticky=TOKEN', 'close'],
      ],
    ],
    [{ query: 'sid', fallback: 'address' }, [['/?sid=TOKEN', '', 'keep-alive']]],
    [
      { query: 'sid', cookie: 'sticky' },
      [
        ['/?sid=TOKEN', 'sticky=TOKEN', 'keep-alive'],
        ['/?sid=TOKEN', 'sticky=id.TOKEN', 'keep-alive'],
        ['/?sid=old', 'sticky=TOKEN', 'keep-alive'],
        ['/', 'sticky=TOKEN', 'keep-alive'],
        ['/?sid=TOKEN', '', 'close'],
        ['/?sid=TOKEN', 'sticky=old', 'close'],
        ['/?sid=TOKEN', 'sticky=OTHER', 'close'],
      ],
    ],
    [{ cookie: 'sticky' }, [['/?sid=TOKEN', 'sticky=TOKEN', 'keep-alive']]],
  ]) {
    const { port } = await sessions(t, { workers: 2, options: { affinity } })
    const [token, other] = (await tokens(port, 2)).values()
    const filled = (text) => text.replace('TOKEN', token).replace('OTHER', other)
    const agent = new http.Agent({ keepAlive: true })
    t.after(() => agent.destroy())
    for (const [path, cookie, connection] of requests) {
      // On a connection of its own, which comes to where the session is.
      agent.destroy()
      const { headers } = await request(port, { agent, path: filled(path), headers: { cookie: filled(cookie) } })
      assert.equal(headers.connection, connection, JSON.stringify({ affinity, path, cookie }))
    }
  }
})

test('a connection whose request shows no session is not kept, unless the address decides', async (t) => {
  for (const [affinity, connection] of [
    [{ query: 'sid' }, 'close'],
    [{ query: 'sid', fallback: 'address' }, 'keep-alive'],
  ]) {
    const { port } = await sessions(t, { workers: 2, options: { affinity } })
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => agent.destroy())
    assert.equal((await request(port, { agent })).headers.connection, connection)
  }
})

test('tokens are of requests and sockets of a balancer that tells sessions apart', async (t) => {
  const { port } = await sessions(t, { options: {} })
  assert.deepEqual(Object.keys(await ask(port)), ['pid'])
  assert.equal(sticky.token(new http.IncomingMessage(null)), undefined)
  assert.match(sticky.generateId(new http.IncomingMessage(null)), /^[\w-]{20}$/)
})

test('what is neither request nor socket has no token, no id and no proxy', () => {
  const code = 'ERR_INVALID_ARG_TYPE'
  for (const nonsense of [undefined, null, 7, 'socket', {}, { socket: 7 }, http.createServer(), net.createServer()]) {
    assert.throws(() => sticky.token(nonsense), { code, message: /"from" argument must be a request of http/ })
    assert.throws(() => sticky.generateId(nonsense), { code, message: /"request" argument/ })
    assert.throws(() => sticky.proxyAddress(nonsense), { code, message: /"socket" argument/ })
  }
  for (const sound of [new net.Socket(), new http.IncomingMessage(new net.Socket()), new http.IncomingMessage(null)]) {
    assert.equal(sticky.token(sound), undefined)
    assert.equal(sticky.proxyAddress(sound), undefined)
  }
})
