'use strict'

// socket.io where addresses say nothing about clients: all have one, or each request comes from another, or a proxy
// speaks for all of them. Their sessions show tokens, which name their slots.
//
// STICKY_TEST_SECONDS: how long clients of changing addresses talk, 10 by default.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { until } = require('./support/client')
const { balanced, signal, start } = require('./support/process')
const {
  measurePool,
  missingProxies,
  percent,
  POOLS,
  POOL_TIMEOUT,
  proxied,
  startProxy,
  WORKERS,
} = require('./support/proxies')

const SECONDS = Number(process.env.STICKY_TEST_SECONDS ?? 10)
const TIMEOUT = (SECONDS + 120) * 1000

const WORKER = 'socket-io/worker.js'
const PATIENT = { seed: 'sessions-socket-io.test.js', maxRetries: 400 }
const BY_SESSION = { affinity: { query: 'sid' } }
const BY_ADDRESS = { behindProxy: true }

const POLLING = ['polling']
const UPGRADING = ['polling', 'websocket']
const WEBSOCKET = ['websocket']

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000))

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0)

const workerOf = (session) => Number.parseInt(session, 10)

/** A balancer over servers of socket.io, and the requests whose session the server did not know, as they come. */
async function servers(t, options) {
  const { primary, port } = await balanced(t, { workers: WORKERS, worker: WORKER, options: { ...PATIENT, ...options } })
  return { primary, port, unknown: unknownSessions(primary) }
}

function unknownSessions(primary) {
  const unknown = []
  primary.on('event:unknown', (one) => unknown.push(one))
  return unknown
}

/** Whether a request came to another worker than its session's, which may also know it no more. */
const isAstray = ({ session, by }) => by !== workerOf(session)

/** Processes full of clients, as socket-io/clients.js has them. */
class Clients {
  #processes

  constructor(t, options, processes = 1) {
    const args = [{ ...options, count: options.count / processes }]
    this.#processes = Array.from({ length: processes }, () => start(t, 'socket-io/clients.js', { args }))
    t.after(() => {
      for (const { stderr } of this.#processes) if (stderr) t.diagnostic(stderr)
    })
  }

  /** The same of every process, and all that they return. */
  async call(method, ...args) {
    return (await Promise.all(this.#processes.map((one) => one.call(method, ...args)))).flat()
  }
}

/** Nothing has gone wrong for these clients. */
function assertUndisturbed(reports) {
  for (const { n, lost, failed, wrong, workers } of reports) {
    assert.deepEqual({ n, lost, failed, wrong }, { n, lost: [], failed: [], wrong: [] })
    assert.equal(workers.length, 1, `client ${n} has had ${workers.length} sessions`)
  }
}

/** How many sessions each worker was given first. */
function shares(reports) {
  const counts = new Map()
  for (const { workers } of reports) counts.set(workers[0], (counts.get(workers[0]) ?? 0) + 1)
  return counts
}

// ---- Many clients at one address ----

test('1,000 clients at one address are spread evenly, and only those of workers that end begin anew', {
  timeout: TIMEOUT,
}, async (t) => {
  const { primary, port, unknown } = await servers(t, BY_SESSION)
  const transports = [POLLING, UPGRADING, POLLING, WEBSOCKET]
  const options = { port, count: 1000, width: 25, from: 'one', transports, period: 1500 }
  const clients = new Clients(t, options, 2)
  await clients.call('connected')
  const atFirst = await clients.call('report')
  assert.equal(atFirst.length, options.count)
  assertUndisturbed(atFirst)
  assert.deepEqual(unknown, [])
  const counts = shares(atFirst)
  t.diagnostic(`sessions of each worker at first: ${[...counts.values()].join(', ')}`)
  assert.equal(counts.size, WORKERS)
  for (const count of counts.values()) {
    const even = options.count / WORKERS
    assert.ok(Math.abs(count - even) <= even / 10, `${count} sessions`)
  }

  const ended = []
  /** The workers of the slots, once each has one that has not ended. */
  const serving = () =>
    until(async () => {
      const pids = (await primary.call('stats')).slots.map(({ pid }) => pid)
      return pids.length === WORKERS && pids.every((pid) => pid && !ended.includes(pid)) && pids
    })
  const [replaced, killed, ...others] = await serving()
  ended.push(replaced)
  await primary.call('disconnect', replaced)
  await primary.call('fork')
  await serving()
  await clients.call('answered', 1)
  // As managers do it, since WebSockets would stay with it for ever.
  signal(replaced, 'SIGTERM')
  ended.push(killed)
  signal(killed, 'SIGKILL')
  const reports = await clients.call('finish', await serving())

  // As the workers have it: those whose sessions ended went to the slots of their workers.
  for (const { session, by } of unknown) {
    assert.ok(ended.includes(workerOf(session)), `worker ${by} does not know ${session}, whose worker is still there`)
    assert.ok(!others.includes(by), `${session} was sent to another slot`)
  }
  // As the clients have it.
  const [moved, stayed] = [true, false].map((is) => reports.filter(({ workers }) => ended.includes(workers[0]) === is))
  assertUndisturbed(stayed)
  for (const { n, lost, failed, wrong, connected } of moved) {
    const client = `client ${n}`
    for (const failure of [...lost, ...failed]) {
      // An attempt to connect has no session yet, and fails where a worker is killed.
      const hadEnded = failure.session ? ended.includes(workerOf(failure.session)) : failed.includes(failure)
      assert.ok(hadEnded, `${client}: ${JSON.stringify(failure)}`)
      assert.ok(!others.includes(failure.by), `${client}: ${JSON.stringify(failure)}`)
    }
    assert.ok(lost.length > 0, client)
    assert.deepEqual(wrong, [], client)
    assert.equal(connected, true, client)
  }
  assert.ok(unknown.length > 0, 'no session was unknown, so that nothing was tried')
  assert.equal((await primary.call('stats')).refused, 0)
  t.diagnostic(
    `${sum(reports.map(({ acks }) => acks))} acks, ${stayed.length} clients kept their sessions, ` +
      `${sum(moved.map(({ lost }) => lost.length))} sessions lost, ${unknown.length} requests for unknown sessions`,
  )
})

// ---- Clients whose every request comes from another address ----

const WALKING = { count: 200, from: 'any' }

test(`${WALKING.count} polling clients, each request from another address: no session is lost`, {
  timeout: TIMEOUT,
}, async (t) => {
  const { primary, port, unknown } = await servers(t, BY_SESSION)
  const clients = new Clients(t, { port, ...WALKING })
  await clients.call('connected')
  await sleep(SECONDS)
  const { slots } = await primary.call('stats')
  const reports = await clients.call(
    'finish',
    slots.map(({ pid }) => pid),
  )
  assert.equal(reports.length, WALKING.count)
  assertUndisturbed(reports)
  assert.deepEqual(unknown, [])
  assert.equal((await primary.call('stats')).refused, 0)
  for (const { n, acks, connections } of reports) {
    assert.ok(acks > 1, `client ${n}: ${acks} acks`)
    // A handshake, and for each answer a request that asks and one that fetches it.
    assert.ok(connections >= 1 + 2 * acks, `client ${n}: ${acks} acks by ${connections} connections`)
  }
  const of = (key) => sum(reports.map(({ [key]: number }) => number))
  t.diagnostic(`${of('acks')} acks by requests from ${of('connections')} addresses`)
})

test('the same clients by address, to compare: their sessions are lost', { timeout: TIMEOUT }, async (t) => {
  const { primary, port, unknown } = await servers(t)
  new Clients(t, { port, ...WALKING })
  // As many as there are clients; without end if there are fewer.
  await until(() => unknown.filter(isAstray).length >= WALKING.count)
  const present = (await primary.call('stats')).slots.map(({ pid }) => pid)
  for (const { session } of unknown) assert.ok(present.includes(workerOf(session)))
})

// ---- Behind a proxy ----

const skip = missingProxies()

const UNPOOLED = ['nginx-x-forwarded-for.conf', 'haproxy-x-forwarded-for.cfg', 'Caddyfile']

test(`${UNPOOLED.join(', ')}: no request of a session goes astray`, { skip, timeout: TIMEOUT }, async (t) => {
  const { port, unknown } = await servers(t, BY_SESSION)
  const options = { from: 'any', sees: '127.0.0.1', transports: [POLLING, UPGRADING], period: 200 }
  const all = []
  for (const file of UNPOOLED) {
    all.push(new Clients(t, { ...options, count: 40, port: await startProxy(t, file, port) }))
  }
  await Promise.all(
    all.map(async (clients) => {
      await clients.call('connected')
      await clients.call('answered', 5)
    }),
  )
  for (const clients of all) {
    const reports = await clients.call('report')
    assertUndisturbed(reports)
    assert.ok(shares(reports).size > 1, 'all are of one worker, so that nothing was tried')
  }
  assert.deepEqual(unknown, [])
})

/** Where a request shows its session; nowhere if there is none. */
const SHOWING = {
  query: { options: BY_SESSION, show: (id) => id && { path: `/?sid=${id}` } },
  cookie: { options: { affinity: { cookie: 'sticky' } }, show: (id) => id && { headers: { cookie: `sticky=${id}` } } },
}

/** The shares of requests that reach a worker which does not know their session, at first and once the pool has settled. */
async function misrouted(t, { show = SHOWING.query.show, ...setting }) {
  const { port } = await proxied(t, setting)
  const sessions = []
  return measurePool(t, port, async (n, ask) => {
    const session = sessions[n]
    const { pid, token } = await ask(show(session?.id))
    const astray = session !== undefined && session.pid !== pid
    // As socket.io does: a session that its worker does not know has ended, and the client begins another.
    if (astray) sessions[n] = undefined
    else sessions[n] ??= { pid, id: `${n}.${token}` }
    return astray
  })
}

for (const [file, changes] of POOLS) {
  const proxy = file.match(/^[a-z]+/)[0]
  const pool = { file, changes }

  test(`a pool of ${proxy} is not kept where the query shows sessions: all requests reach their workers`, {
    skip,
    timeout: POOL_TIMEOUT,
  }, async (t) => {
    assert.deepEqual(await misrouted(t, { ...pool, ...SHOWING.query }), { first: 0, settled: 0 })
  })

  test(`a pool of ${proxy} settles where a cookie shows sessions: requests reach their workers`, {
    skip,
    timeout: POOL_TIMEOUT,
  }, async (t) => {
    const { settled } = await misrouted(t, { ...pool, ...SHOWING.cookie })
    assert.ok(settled <= 0.02, percent(settled))
  })

  test(`a pool of ${proxy} by address, to compare: it settles as well`, { skip, timeout: POOL_TIMEOUT }, async (t) => {
    const { settled } = await misrouted(t, { ...pool, options: BY_ADDRESS })
    assert.ok(settled <= 0.02, percent(settled))
  })

  test(`a pool of ${proxy} that is kept, to compare: many sessions end`, { skip, timeout: POOL_TIMEOUT }, async (t) => {
    const { settled } = await misrouted(t, { ...pool, ...SHOWING.query, env: { STICKY_TEST_KEEP_ALIVE: 'always' } })
    assert.ok(settled > 0.1, percent(settled))
  })

  test(`a pool of ${proxy}: no session of socket.io is lost`, { skip, timeout: TIMEOUT }, async (t) => {
    const { primary, port } = await proxied(t, { ...pool, options: BY_SESSION, worker: WORKER })
    const unknown = unknownSessions(primary)
    // As browsers have it: connections that are kept.
    const clients = new Clients(t, { port, count: 64, keepAlive: true, sees: '127.0.0.1', period: 100 })
    await clients.call('answered', 14)
    assertUndisturbed(await clients.call('report'))
    assert.deepEqual(unknown, [])
  })
}
