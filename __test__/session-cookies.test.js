'use strict'

// The option `affinity.cookie`: workers set the cookie by which their clients come back.
//
// STICKY_TEST_REQUESTS: how many requests there are while slots come and go, 10,000 by default.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const https = require('node:https')
const { json } = require('node:stream/consumers')
const { test } = require('node:test')
const { WebSocket } = require('ws')
const { selfSigned } = require('./support/certificates')
const { loopback, parallel, request } = require('./support/client')
const { directory } = require('./support/places')
const { served, sessions } = require('./support/sessions')

const CLIENTS = 250
const REQUESTS = Number(process.env.STICKY_TEST_REQUESTS ?? 10_000)

const COOKIE = { affinity: { cookie: 'sticky' } }

/** The cookies that a response sets, by their names; each as its value and attributes. */
function cookiesOf({ headers }) {
  const lines = headers['set-cookie'] ?? []
  return new Map(lines.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
}

/** A client that keeps its cookies, and comes from another address each time. */
class Client {
  jar = new Map()
  #port
  #address

  constructor(port, n) {
    this.#port = port
    this.#address = n * 1000
  }

  async visit(options) {
    const cookie = [...this.jar].map(([name, value]) => `${name}=${value.split(';')[0]}`).join('; ')
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
  for (const cookie of [undefined, 'sticky=old', 'sticky', `sticky=${first.token}x`, `Sticky=${first.token}`]) {
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
  ]) {
    const { primary, port } = await sessions(t, {
      workers: 1,
      worker: 'cookie-worker.js',
      options: { affinity: { cookie } },
    })
    const { token, cookies } = await new Client(port, 1).visit({ headers })
    assert.equal(cookies.get('s'), `${token}; ${expected}`)
    await primary.kill()
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
