'use strict'

// The primary of a history, which writes down its table whenever that changes, with the slots that it has for the clients.
//
// argv: { configuration, takeOver, clients }

const { once } = require('node:events')
const path = require('node:path')
const { openLog } = require('../log')
const { serve, tell } = require('./calls')
const { ClusterWorkers } = require('./cluster-workers')
const { OwnWorkers } = require('./own-workers')
const sticky = require('../..')

/** @type {{ configuration: import('../history').Configuration, takeOver: string, clients: string[] }} */
const { configuration, takeOver, clients } = JSON.parse(process.argv[2])
const log = openLog(/** @type {string} */ (process.env.SOAK_LOG))
const Workers = configuration.manager === 'own' ? OwnWorkers : ClusterWorkers
const workers = new Workers(path.join(__dirname, 'worker.js'), log)
const { activeWorkers } = workers
const balancer = sticky.createBalancer({
  ...(activeWorkers && { activeWorkers }),
  ...configuration.options,
  takeOver,
})

// A slot without a worker comes and goes without an event.
const LOOK_EVERY = 20

let last = ''

/** @type {Set<number>} the numbers of slots for which the clients' slots were told */
const told = new Set()

function logTable() {
  const pids = balancer.stats().slots.map(({ pid }) => pid)
  const table = JSON.stringify(pids)
  if (table === last) return
  last = table
  if (pids.length > 0 && !told.has(pids.length)) {
    told.add(pids.length)
    log('slots', { count: pids.length, slotOf: clients.map((client) => balancer.slotOf(client)?.slot) })
  }
  log('table', { pids })
  tell({ table: pids })
}

process.on('warning', (/** @type {any} */ { code, message }) => log('warning', { code, message }))
balancer.on('slot', logTable)
setInterval(() => balancer.listening && logTable(), LOOK_EVERY).unref()
balancer.on('refuse', (event) => log('refused', event))
balancer.on('takeover', () => log('takeover', {}))
balancer.on('close', () => {
  log('closed', { stats: balancer.stats() })
  tell({ closed: true })
  process.channel?.unref()
  workers.end()
})

serve({
  /** @param {number} port */
  async listen(port) {
    await workers.resize(configuration.slots)
    balancer.listen(port, '127.0.0.1')
    await once(balancer, 'listening')
    log('listening', balancer.steering ?? {})
    return /** @type {import('node:net').AddressInfo} */ (balancer.address()).port
  },
  steering: () => balancer.steering,
  stats: () => balancer.stats(),
  /** @param {string} client */
  slotOf: (client) => balancer.slotOf(client)?.slot ?? null,
  /** @param {number} slot */
  replace: (slot) => workers.replace(slot),
  reload: () => workers.reload(),
  /** @param {number} count */
  resize: (count) => workers.resize(count),
  /**
   * @param {number} slot
   * @param {number} ms
   */
  empty: (slot, ms) => workers.empty(slot, ms),
  /**
   * Blocks the event loop.
   * @param {number} ms
   */
  block(ms) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
  },
  /**
   * The time of day becomes another, as JavaScript sees it. Native code asks for the monotonic clock alone.
   * @param {number} ms
   */
  setClock(ms) {
    const { now } = Date
    Date.now = () => now() + ms
  },
  close() {
    balancer.close()
  },
})
