'use strict'

// The metrics of a balancer, for Prometheus: everything that stats() tells, read when it is asked for, and the refusals,
// of which only events tell slot and status. Copy this file; docs/metrics.md says how to use it.

const { Counter, Gauge } = require('prom-client')

/** What a connection may be refused with. Closed: for lack of file descriptors, without an answer. */
const STATUSES = ['502', '503', 'closed']

/**
 * Registers the metrics of a balancer that does not listen yet, or refusals are missed.
 * @param {import('../..').Balancer} balancer
 * @param {import('prom-client').Registry} register one that no other balancer's metrics are in
 */
function watch(balancer, register) {
  const registers = [register]

  /** @type {import('../..').BalancerStats | undefined} */
  let taken
  /** One look for all metrics of a scrape, so that they fit together. */
  function stats() {
    if (!taken) {
      taken = balancer.stats()
      queueMicrotask(() => {
        taken = undefined
      })
    }
    return taken
  }

  /**
   * @param {'accepted' | 'adopted' | 'redelivered' | 'rejected' | 'gone'} total which never falls, not even over
   * close() and listen()
   * @param {string} help
   */
  function counter(total, help) {
    new Counter({
      name: `sticky_listen_${total}_total`,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(stats()[total])
      },
    })
  }

  /**
   * @param {string} name
   * @param {string} help
   * @param {() => number} value
   */
  function gauge(name, help, value) {
    new Gauge({
      name: `sticky_listen_${name}`,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  }

  /**
   * @param {string} name
   * @param {string} help
   * @param {(slot: import('../..').SlotStats) => number} value
   */
  function slotGauge(name, help, value) {
    new Gauge({
      name: `sticky_listen_slot_${name}`,
      help,
      labelNames: ['slot'],
      registers,
      collect() {
        // There may be fewer slots than last time.
        this.reset()
        for (const [slot, now] of stats().slots.entries()) this.set({ slot }, value(now))
      },
    })
  }

  counter('accepted', 'Connections that came in.')
  counter('adopted', 'Connections that a worker took over.')
  counter('redelivered', 'Times that a connection was sent again, its worker having died, closed or had no room.')
  counter('rejected', 'Connections closed for want of a valid PROXY header.')
  counter('gone', 'Connections whose client left while they waited for a worker.')

  gauge('identifying', 'Connections whose client is not known yet.', () => stats().identifying)
  gauge('waiting', 'Connections not sent to a worker yet, whose client is known.', () => stats().waiting)
  gauge('uptime_seconds', 'For how long the balancer has listened; 0 if it does not.', () => stats().uptime)

  slotGauge('up', 'Whether a worker serves the slot.', ({ pid }) => Number(pid !== null))
  slotGauge('steered', 'Whether the kernel brings connections to the worker of the slot.', ({ steering }) =>
    Number(steering === 'kernel'),
  )
  slotGauge('waiting', 'Connections not sent to the worker of the slot yet.', ({ waiting }) => waiting)
  slotGauge('in_flight', 'Connections sent, which the worker of the slot has not taken yet.', (slot) => slot.inFlight)

  new Gauge({
    name: 'sticky_listen_steering_info',
    help: 'Who brings connections to the workers, and why; nothing while the balancer does not listen.',
    labelNames: ['mode', 'reason'],
    registers,
    collect() {
      this.reset()
      const { steering } = stats()
      if (steering) this.set({ mode: steering.mode, reason: steering.reason }, 1)
    },
  })

  const refused = new Counter({
    name: 'sticky_listen_refused_total',
    help: 'Connections answered with 502 or 503, or closed for lack of file descriptors; up to a second late.',
    labelNames: ['slot', 'status'],
    registers,
    collect() {
      // Prometheus sees a counter grow only if it was there before.
      for (const slot of ['none', ...stats().slots.keys()]) {
        for (const status of STATUSES) this.inc({ slot, status }, 0)
      }
    },
  })
  balancer.on('refuse', ({ slot, status, count }) => {
    refused.inc({ slot: slot ?? 'none', status: status ?? 'closed' }, count)
  })

  // A slot counts anew with each listen(), and when it comes back after there were fewer. A counter goes on.
  /** @type {number[]} */
  let counted = []
  const slotAdopted = new Counter({
    name: 'sticky_listen_slot_adopted_total',
    help: 'Connections that workers of the slot took over.',
    labelNames: ['slot'],
    registers,
    collect: () => countAdopted(stats()),
  })
  /** @param {import('../..').BalancerStats} now */
  function countAdopted({ slots }) {
    for (const [slot, { adopted }] of slots.entries()) {
      const before = counted[slot] ?? 0
      slotAdopted.inc({ slot }, adopted < before ? adopted : adopted - before)
    }
    counted = slots.map(({ adopted }) => adopted)
  }
  balancer.on('close', () => countAdopted(balancer.stats()))
  balancer.on('listening', () => {
    counted = []
  })

  // A Histogram of prom-client counts what it observes itself, and cannot be told what others have counted. But a metric is
  // to a registry whatever has a name and gives its values.
  const name = 'sticky_listen_wait_seconds'
  const help = 'How long connections waited until their worker took them.'
  const histogram = {
    name,
    reset() {},
    get: async () => ({ name, help, type: 'histogram', aggregator: 'sum', values: waitValues(name, stats().waits) }),
  }
  register.registerMetric(/** @type {any} */ (histogram))
}

/**
 * The lines of a histogram: how many waited up to each bound, in seconds, and not as in stats() how many since the bound before.
 * @param {string} name
 * @param {import('../..').WaitTimes} waits
 */
function waitValues(name, { bounds, counts, sum }) {
  let count = 0
  const buckets = counts.map((more, bucket) => {
    count += more
    const le = bucket < bounds.length ? bounds[bucket] / 1000 : '+Inf'
    return { metricName: `${name}_bucket`, labels: { le }, value: count }
  })
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels: {}, value: sum / 1000 },
    { metricName: `${name}_count`, labels: {}, value: count },
  ]
}

module.exports = watch
