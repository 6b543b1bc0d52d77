'use strict'

// Workers that take servers of any kind, and balancers in the test's own process that feed them.

const cluster = require('node:cluster')
const { once } = require('node:events')
const path = require('node:path')
const sticky = require('../..')
const { until } = require('./client')
const { FIXTURES, Fixture, start } = require('./process')

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

/** The next `count` events of that name. */
async function times(fixture, count, name) {
  for (let n = 0; n < count; n++) await fixture.next(name)
}

module.exports = { KINDS, PATIENT, TIMEOUT, balancing, listening, pair, served, times, worker }
