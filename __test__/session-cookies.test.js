'use strict'

// The option `affinity.cookie`: workers set the cookie by which their clients come back.
//
// STICKY_TEST_REQUESTS: how many requests there are while slots come and go, 10,000 by default.

const assert = require('node:assert/strict')
const { randomUUID } = require('node:crypto')
const { once } = require('node:events')
const http = require('node:http')
const https = require('node:https')
const { json } = require('node:stream/consumers')
const { test } = require('node:test')
const { WebSocket } = require('ws')
const sticky = require('..')
const { selfSigned } = require('./support/certificates')
const { loopback, parallel, request } = require('./support/client')
const { directory } = require('./support/places')
const { served, sessions } = require('./support/sessions')

const CLIENTS = 250
const REQUESTS = Number(process.env.STICKY_TEST_REQUESTS ?? 10_000)

const COOKIE = { affinity: { cookie: 'sticky' } }

// By its looks it could be one.
const FOREIGN = 'AAAAAAAAAAAAAAAA'

/** The cookies that a response sets, by their names; each as its value and attributes. */
function cookiesOf({ headers }) {
  const lines = headers['set-cookie'] ?? []
  return new Map(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
}

/** Whether a browser sends a cookie of this path there. */
function isWithin(place, path) {
  return place === path || place.startsWith(path.endsWith('/') ? path : `${path}/`)
}

/** A client that keeps its cookies, each for the paths that it is for, and comes from another address each time. */
class Client {
  jar = new Map()
  #port
  #address

  constructor(port, n) {
    this.#port = port
    this.#address = n * 1000
  }

  async visit(options) {
    const place = (options?.path ?? '/').split('?')[0]
    const sent = [...this.jar].filter(([, value]) => isWithin(place, /Path=([^;]*)/.exec(value)?.[1] ?? '/'))
    const cookie = sent.map(([name, value]) => `${name}=${value.split(';')[0]}`).join('; ')
    const headers = cookie ? { cookie, ...options?.headers } : { ...options?.headers }
    const localAddress = loopback(this.#address++)
    const response = await request(this.#port, { localAddress, ...options, headers })
    const cookies = cookiesOf(response)
    for (const [name, value] of cookies) this.jar.set(name, value)
    return { status: response.status, cookies, ...(response.body ? JSON.parse(response.body) : {}) }
  }
}

for (const framework of ['express', 'fastify']) {
  test(`${framework}: ${REQUESTS} requests from changing addresses, with more slots and fewer in between: no session moves but of slots that are gone`, async (t) => {
    const env = { STICKY_TEST_FRAMEWORK: framework }
    const { primary, port } = await sessions(t, { worker: 'cookie-worker.js', options: COOKIE, env })
    const clients = Array.from({ length: CLIENTS }, (_, n) => new Client(port, n))
    // A client waits for one answer before it asks again.
    const phase = async (share, check) => {
      const each = Math.round((REQUESTS * share) / CLIENTS)
      await parallel(CLIENTS, 16, async (n) => {
        for (let round = 0; round < each; round++) check(await clients[n].visit(), clients[n])
      })
    }
    const stays = ({ status, pid, known, cookies }, client) => {
      assert.equal(status, 200)
      client.pid ??= pid
      assert.equal(pid, client.pid)
      assert.equal(known, client.known ?? false)
      assert.deepEqual([...cookies.keys()].sort(), client.known ? [] : ['id', 'sticky'])
      client.known = true
    }
    await phase(0.3, stays)
    await primary.call('resize', 6)
    const six = await served(primary, 6)
    // Those that are new now may come to the new slots.
    for (const client of clients.slice(0, 50)) {
      client.jar.clear()
      client.pid = client.known = undefined
    }
    await phase(0.4, stays)
    assert.ok(clients.some(({ pid }) => six.indexOf(pid) >= 4))
    await primary.call('resize', 4)
    await served(primary, 4)
    let begun = 0
    await phase(0.3, (answer, client) => {
      const gone = six.indexOf(client.pid) >= 4
      if (gone) {
        // It has a session no more, and begins another, where it stays.
        begun++
        assert.equal(answer.known, false)
        assert.ok(answer.cookies.has('sticky'))
        client.jar.delete('id')
        client.pid = answer.pid
        client.known = undefined
      } else if (client.known) {
        stays(answer, client)
      } else {
        assert.equal(answer.pid, client.pid)
        client.known = true
      }
    })
    assert.ok(begun > 0 && begun <= 50 + CLIENTS / 4, `${begun}`)
  })
}

test('who shows a session gets no cookie; who shows none, or one that is no more, gets it each time', async (t) => {
  const { port } = await sessions(t, { worker: 'cookie-worker.js', options: COOKIE })
  const client = new Client(port, 1)
  const first = await client.visit()
  assert.equal(first.cookies.get('sticky'), `${first.token}; Path=/; HttpOnly; SameSite=Lax`)
  assert.deepEqual((await client.visit()).cookies, new Map())
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  for (const cookie of [undefined, `sticky=${FOREIGN}`, `sticky="${FOREIGN}"`, 'sticky', `Sticky=${first.token}`]) {
    const kept = await request(port, { agent, headers: cookie === undefined ? {} : { cookie } })
    const { token } = JSON.parse(kept.body)
    assert.ok(cookiesOf(kept).get('sticky').startsWith(`${token};`), cookie)
  }
})

test('the cookie has the attributes that the option says', async (t) => {
  for (const [cookie, headers, expected] of [
    [
      { name: 's', path: '/app', domain: 'x.org', maxAge: 60 },
      {},
      'Path=/app; Domain=x.org; Max-Age=60; HttpOnly; SameSite=Lax',
    ],
    [{ name: 's', httpOnly: false, sameSite: 'strict', secure: true }, {}, 'Path=/; Secure; SameSite=Strict'],
    [{ name: 's', sameSite: 'none' }, {}, 'Path=/; HttpOnly; Secure; SameSite=None'],
    [{ name: 's' }, { 'x-forwarded-proto': 'https' }, 'Path=/; HttpOnly; Secure; SameSite=Lax'],
    [{ name: 's' }, { 'x-forwarded-proto': 'https, http' }, 'Path=/; HttpOnly; Secure; SameSite=Lax'],
    [{ name: 's' }, { 'x-forwarded-proto': 'http' }, 'Path=/; HttpOnly; SameSite=Lax'],
    [{ name: 's', secure: false }, { 'x-forwarded-proto': 'https' }, 'Path=/; HttpOnly; SameSite=Lax'],
    [{ name: 's', secure: false }, { forwarded: 'proto=https' }, 'Path=/; HttpOnly; SameSite=Lax'],
    [{ name: '__Host-s' }, {}, 'Path=/; HttpOnly; Secure; SameSite=Lax'],
    [{ name: '__secure-s', path: '/app' }, {}, 'Path=/app; HttpOnly; Secure; SameSite=Lax'],
  ]) {
    const { primary, port } = await sessions(t, {
      workers: 1,
      worker: 'cookie-worker.js',
      options: { affinity: { cookie } },
    })
    const { token, cookies } = await new Client(port, 1).visit({ headers, path: cookie.path })
    assert.equal(cookies.get(cookie.name), `${token}; ${expected}`)
    await primary.kill()
  }
})

test('the cookie is Secure where Forwarded says so of the client', async (t) => {
  const { port } = await sessions(t, { workers: 1, worker: 'cookie-worker.js', options: COOKIE })
  for (const [forwarded, secure] of [
    ['proto=https', true],
    ['for=192.0.2.1;proto=https;by=192.0.2.2', true],
    ['For="[2001:db8::1]:47"; Proto="HTTPS" ; by=x', true],
    ['for="a,\\"b;c";proto=https, proto=http', true],
    ['proto=http', false],
    ['for=192.0.2.1;proto=http, for=192.0.2.2;proto=https', false],
    ['for=192.0.2.1, proto=https', false],
    ['for="x;proto=https"', false],
    ['for="x;proto=https', false],
    ['xproto=https', false],
    ['proto=httpsx', false],
  ]) {
    const { cookies } = await new Client(port, 1).visit({ headers: { forwarded } })
    assert.equal(cookies.get('sticky').includes('; Secure'), secure, forwarded)
  }
})

test('a name with a prefix that browsers heed takes no attributes with which they would not keep the cookie', () => {
  for (const [cookie, message] of [
    [{ name: '__Host-x', secure: false }, /'options\.affinity\.cookie\.secure' must not be false .* '__Host-x'/],
    [{ name: '__Host-x', path: '/app' }, /'options\.affinity\.cookie\.path' must be '\/' for .*Received '\/app'/],
    [{ name: '__Host-x', domain: 'x.org' }, /'options\.affinity\.cookie\.domain' must be left out .* 'x\.org'/],
    [{ name: '__host-x', path: '/app' }, /'options\.affinity\.cookie\.path'/],
    [{ name: '__Secure-x', secure: false }, /'options\.affinity\.cookie\.secure' must not be false/],
  ]) {
    const create = () => sticky.createBalancer(() => [], { affinity: { cookie } })
    assert.throws(create, { code: 'ERR_INVALID_ARG_VALUE', message }, cookie.name)
  }
  for (const cookie of [
    '__Host-x',
    { name: '__Host-x', secure: true, path: '/', sameSite: 'none' },
    { name: '__Secure-x', path: '/app', domain: 'x.org' },
    { name: 'x__Host-', secure: false, path: '/app' },
  ]) {
    sticky.createBalancer(() => [], { affinity: { cookie } })
  }
})

// ---- Requests that say nothing of the session ----

test('requests elsewhere than in the path of the cookie move no session', async (t) => {
  const options = { affinity: { cookie: { name: 'sticky', path: '/app' } } }
  const { port } = await sessions(t, { worker: 'cookie-worker.js', options })
  await parallel(20, 4, async (n) => {
    const client = new Client(port, n)
    const { pid, cookies } = await client.visit({ path: '/app?first' })
    assert.ok(cookies.has('sticky'))
    for (const path of ['/favicon.ico', '/', '/?/app', '/application', '/App/x', '/static/app/x', '/app/x']) {
      const answer = await client.visit({ path })
      assert.equal(answer.cookies.has('sticky'), false, path)
      if (path === '/app/x') assert.equal(answer.pid, pid)
    }
  })
})

test('the cookie is set where its path matches', async (t) => {
  for (const [path, within, elsewhere] of [
    ['/app', ['/app', '/app/', '/app/x?y', '/app?x', 'http://x/app'], ['/', '/apps', '/ap', 'http://app/', 'http://x']],
    ['/app/', ['/app/', '/app/x'], ['/app', '/app?/', '/']],
    ['/', ['/', '/x', '*', 'http://x'], []],
  ]) {
    const options = { affinity: { cookie: { name: 'sticky', path } } }
    const { primary, port } = await sessions(t, { workers: 1, worker: 'cookie-worker.js', options })
    const sets = async (at) => cookiesOf(await request(port, { path: at, method: 'OPTIONS' })).has('sticky')
    for (const at of within) assert.equal(await sets(at), true, at)
    for (const at of elsewhere) assert.equal(await sets(at), false, at)
    await primary.kill()
  }
})

test('a cross-site request to which no browser adds the cookie sets none', async (t) => {
  const link = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }
  const part = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }
  const requests = [
    ['GET', {}],
    ['POST', {}],
    ['GET', { ...link, 'sec-fetch-site': 'none' }],
    ['POST', { ...link, 'sec-fetch-site': 'same-origin' }],
    ['POST', { ...part, 'sec-fetch-site': 'same-site' }],
    ['GET', link],
    ['HEAD', link],
    ['POST', link],
    ['GET', part],
  ]
  for (const [sameSite, expected] of [
    ['strict', [true, true, true, true, true, false, false, false, false]],
    ['lax', [true, true, true, true, true, true, true, false, false]],
    ['none', [true, true, true, true, true, true, true, true, true]],
  ]) {
    const options = { affinity: { cookie: { name: 'sticky', sameSite } } }
    const { primary, port } = await sessions(t, { workers: 1, worker: 'cookie-worker.js', options })
    for (const [n, [method, headers]] of requests.entries()) {
      const sets = cookiesOf(await request(port, { method, headers })).has('sticky')
      assert.equal(sets, expected[n], `${sameSite}: ${method} ${JSON.stringify(headers)}`)
    }
    await primary.kill()
  }
})

test('a cookie of that name which is no bare token is the own one of the application, and is not replaced', async (t) => {
  const { port } = await sessions(t, {
    workers: 2,
    worker: 'cookie-worker.js',
    options: { affinity: { cookie: 'sid' } },
  })
  const { token } = await new Client(port, 1).visit()
  for (const cookie of [
    `sid=${randomUUID()}.${FOREIGN}`,
    `a=b; sid=${randomUUID()}`,
    `sid=s%3A${randomUUID()}.${'a'.repeat(43)}`,
    `sid=id.${token}`,
    'sid=',
    'sid=""',
    `sid=${FOREIGN}A`,
    `sid=${FOREIGN.slice(1)}`,
    `sid=${FOREIGN}; sid=mine`,
    `sid=mine;sid=${FOREIGN}`,
  ]) {
    assert.equal(cookiesOf(await request(port, { headers: { cookie } })).has('sid'), false, cookie)
    const socket = new WebSocket(`ws://127.0.0.1:${port}`, { headers: { cookie } })
    const [response] = await once(socket, 'upgrade')
    assert.equal(cookiesOf(response).has('sid'), false, cookie)
    socket.terminate()
  }
})

test('with maxAge the cookie is renewed as it is used, but not with what caches may store', async (t) => {
  const options = { affinity: { query: 'q', cookie: { name: 'sticky', maxAge: 60 } } }
  const { port } = await sessions(t, { worker: 'cookie-worker.js', options })
  const client = new Client(port, 1)
  const { pid, cookies } = await client.visit()
  const line = cookies.get('sticky')
  const [token] = line.split(';')
  assert.equal(line, `${token}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax`)
  for (const [destination, renews] of [
    [undefined, true],
    ['document', true],
    ['empty', true],
    ['image', false],
    ['script', false],
    ['style', false],
  ]) {
    const headers = destination ? { 'sec-fetch-dest': destination } : {}
    const answer = await client.visit({ headers })
    assert.equal(answer.pid, pid)
    assert.equal(answer.cookies.get('sticky'), renews ? line : undefined, destination)
  }
  // Nobody shows ours here.
  for (const [path, cookie] of [
    [`/?q=${token}`, undefined],
    ['/', `sticky=id.${token}`],
    [`/?q=${token}`, `sticky=${FOREIGN}`],
  ]) {
    const answer = await request(port, { path, headers: cookie ? { cookie } : {} })
    assert.equal(JSON.parse(answer.body).pid, pid)
    assert.equal(cookiesOf(answer).has('sticky'), false, path)
  }
})

test('what the application sets stays: its cookies, its own of that name, and a response without a body', async (t) => {
  const { port } = await sessions(t, { workers: 2, worker: 'cookie-worker.js', options: COOKIE })
  const own = await request(port, { path: '/own' })
  assert.deepEqual(own.headers['set-cookie'], ['sticky=mine', 'a=b'])
  const unchanged = await request(port, { path: '/unchanged' })
  assert.equal(unchanged.status, 304)
  assert.deepEqual([...cookiesOf(unchanged).keys()], ['id', 'sticky'])
  const nothing = await request(port, { method: 'HEAD' })
  assert.deepEqual([...cookiesOf(nothing).keys()], ['id', 'sticky'])
})

test('an upgrade sets the cookie too, and comes back by it', async (t) => {
  const { port } = await sessions(t, { worker: 'cookie-worker.js', options: COOKIE })
  const open = async (n, headers = {}) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`, { localAddress: loopback(n), headers })
    t.after(() => socket.terminate())
    const upgraded = once(socket, 'upgrade')
    const [message] = await once(socket, 'message')
    const [response] = await upgraded
    return { pid: Number(message), cookies: cookiesOf(response) }
  }
  const first = await open(0)
  assert.match(first.cookies.get('sticky'), /^[\w-]{16}; Path=\/; HttpOnly; SameSite=Lax$/)
  const cookie = `sticky=${first.cookies.get('sticky').split(';')[0]}`
  for (let n = 1; n < 20; n++) {
    assert.deepEqual(await open(n, { cookie }), { pid: first.pid, cookies: new Map() })
  }
})

test('an https server sets it for TLS alone, though the address decides there', async (t) => {
  const folder = directory(t)
  selfSigned(folder)
  const env = { STICKY_TEST_FRAMEWORK: 'https', STICKY_TEST_TLS: folder }
  const { primary, port } = await sessions(t, { worker: 'cookie-worker.js', options: COOKIE, env })
  const pids = await served(primary, 4)
  for (let n = 0; n < 8; n++) {
    const localAddress = loopback(n)
    const options = { host: '127.0.0.1', port, localAddress, agent: false, rejectUnauthorized: false }
    const [response] = await once(https.get(options), 'response')
    const { pid, token } = await json(response)
    assert.equal(cookiesOf(response).get('sticky'), `${token}; Path=/; HttpOnly; Secure; SameSite=Lax`)
    assert.equal(pid, pids[(await primary.call('slotOf', localAddress)).slot])
  }
})
