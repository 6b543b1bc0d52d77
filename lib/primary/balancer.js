'use strict'

// The balancer of the primary process: a `net.Server` whose connections are accepted and handed to
// workers by native code. No connection is ever seen here.

const cluster = require('node:cluster')
const net = require('node:net')
const { cannotTakeOver, invalidArgType, invalidArgValue, kernelCannotSteer } = require('../errors')
const { balancerOptions } = require('../options')
const { ClusterSlots } = require('./cluster-slots')
const { takeOver } = require('./listening-handle')
const { Session } = require('./session')
const { PATH, obstacleIn, obstacleTo, obstacleToTakeOver } = require('./steering')
const native = require('../../native')

/** @typedef {InstanceType<typeof Session>} BalancerSession */

// Node's flag for the option `ipv6Only` of listen().
const IPV6_ONLY = 1

const NO_STATS = {
  accepted: 0,
  delivered: 0,
  adopted: 0,
  redelivered: 0,
  refused: 0,
  rejected: 0,
  gone: 0,
  identifying: 0,
  waiting: 0,
}

const BOUNDS = native.waitBounds()

const NO_WAITS = { counts: [...BOUNDS, Infinity].map(() => 0), sum: 0 }

class Balancer extends net.Server {
  /** @type {BalancerSession | undefined} of the latest listen() */
  #session
  /** @type {Set<BalancerSession>} those whose counters may still change */
  #sessions = new Set()
  /** What the others counted. */
  #past = { ...NO_STATS, waits: NO_WAITS }
  #options
  /** @type {string | undefined} why the kernel cannot steer, with these options */
  #obstacle
  /** @type {string | undefined} the same of the latest listen() */
  #obstacleHere
  /** Whether that was given a descriptor, which somebody else has as well. */
  #isShared = false
  #draining = false
  /** @type {import('../../native').Inheritance | undefined} of the primary that the next session takes over from */
  #inheritance

  /**
   * @param {unknown} [activeWorkers]
   * @param {unknown} [options]
   */
  constructor(activeWorkers, options) {
    const checked = balancerOptions(activeWorkers, options)
    super()
    this.#options = checked
    this.#obstacle = checked.steering === 'handover' ? "the option steering is 'handover'" : obstacleIn(checked)
    if (checked.steering === 'kernel' && this.#obstacle) throw kernelCannotSteer(this.#obstacle)
    const table = checked.activeWorkers ?? clusterTable(checked.name)
    const begin = () => {
      const inheritance = this.#inheritance
      this.#inheritance = undefined
      const place = { obstacle: this.#obstacleHere, isShared: this.#isShared, inheritance }
      const session = new Session(this, checked, table, place, () => {
        this.#sessions.delete(session)
        this.#past = sum(this.#past, session.stats())
      })
      session.drain(this.#draining)
      this.#session = session
      this.#sessions.add(session)
      return session
    }
    /** @type {any} */
    let handle = null
    // Whatever handle Node makes for a listen(), of any form, is taken over as it is set.
    Object.defineProperty(this, '_handle', {
      configurable: true,
      enumerable: true,
      get: () => handle,
      set: (made) => {
        handle = made
        if (made) takeOver(made, begin)
      },
    })
  }

  // Node's own, which makes a server listen once it is known where.
  /**
   * @param {string | null} address
   * @param {number | null} port
   * @param {number} addressType
   * @param {number} backlog
   * @param {number} [fd]
   * @param {number} [flags]
   */
  _listen2(address, port, addressType, backlog, fd, flags) {
    const { _handle: handle } = /** @type {any} */ (this)
    const { takeOver, steering } = this.#options
    const listen2 = (/** @type {unknown[]} */ ...args) =>
      /** @type {any} */ (net.Server.prototype)._listen2.apply(this, args)
    try {
      if (takeOver !== undefined) this.#inheritance = inherit(takeOver, obstacleToTakeOver(handle, addressType, fd))
      this.#obstacleHere = this.#obstacle ?? obstacleTo(handle, addressType, fd, flags)
      this.#isShared = typeof fd === 'number' && fd >= 0
      if (this.#inheritance?.steered === false) this.#obstacleHere ??= 'the socket that was taken over is a single one'
      if (steering === 'kernel' && this.#obstacleHere) throw kernelCannotSteer(this.#obstacleHere)
      if (!this.#inheritance) return listen2(address, port, addressType, backlog, fd, flags)
      const { ipv6Only } = this.#inheritance
      // To Node it is a socket that was given.
      listen2(null, null, null, backlog, this.#inheritance.socket())
      const there = addressOf(this.address(), ipv6Only)
      const asked = { host: address, port, ipv6Only: Boolean(flags && flags & IPV6_ONLY) }
      if (isMet(asked, there)) return
      this.close()
      throw cannotTakeOver(
        `${takeOver}`,
        `who offers it listens at ${inWords(there)}, and this listen() says ${inWords(asked)}`,
      )
    } catch (error) {
      this.#inheritance = undefined
      Object.assign(this, { _handle: null })
      // A host is looked up first, or the primary of a cluster asked, and then nobody is there to catch it.
      if (!cluster.isWorker && (typeof address !== 'string' || addressType === PATH)) throw error
      process.nextTick(() => this.emit('error', error))
    }
  }

  /** @returns {import('../..').Steering | null} */
  get steering() {
    return this.listening ? (this.#session?.steering() ?? null) : null
  }

  /** Whether new clients are refused. */
  get draining() {
    return this.#draining
  }

  /** @param {unknown} [draining] */
  drain(draining = true) {
    if (typeof draining !== 'boolean') throw invalidArgType('draining', 'of type boolean', draining)
    this.#draining = draining
    this.#session?.drain(draining)
  }

  /** @returns {import('../..').BalancerStats} */
  stats() {
    const latest = this.#session?.stats()
    const all = [...this.#sessions].map((session) => (session === this.#session && latest) || session.stats())
    const { waits, ...counters } = all.reduce(sum, this.#past)
    return {
      ...counters,
      waits: { bounds: [...BOUNDS], ...waits },
      slots: latest?.slots ?? [],
      steering: this.steering,
      uptime: this.listening ? (this.#session?.uptime ?? 0) : 0,
    }
  }

  /**
   * @param {unknown} client
   * @returns {{ slot: number, pid: number | null } | null}
   */
  slotOf(client) {
    if (typeof client !== 'string') throw invalidArgType('client', 'of type string', client)
    const { affinity, behindProxy } = this.#options
    if (!net.isIP(client) && !affinity && !behindProxy) {
      const reason = 'must be an IP address, as without affinity and behindProxy clients are nothing else'
      throw invalidArgValue('client', client, reason)
    }
    // The zone of a link-local address is this host's word for it, not the client's.
    return this.#session?.slotOf(net.isIP(client) ? client.replace(/%.*/, '') : client) ?? null
  }
}

/**
 * What the primary leaves that offers itself at a path, if one does.
 * @param {string} path
 * @param {string | undefined} obstacle
 */
function inherit(path, obstacle = native.offerObstacle(path) ?? undefined) {
  if (obstacle) throw cannotTakeOver(path, obstacle)
  try {
    return native.inherit(path) ?? undefined
  } catch (error) {
    throw cannotTakeOver(path, `who offers it does not answer as it should: ${/** @type {Error} */ (error).message}`)
  }
}

/** @typedef {{ host: string | null, port: number | null, ipv6Only: boolean }} Address */

/**
 * @param {any} address
 * @param {boolean} ipv6Only
 * @returns {Address}
 */
function addressOf(address, ipv6Only) {
  return { host: address.address, port: address.port, ipv6Only }
}

/**
 * Whether a listen() may get the socket that there is.
 * @param {Address} asked
 * @param {Address} there
 */
function isMet(asked, there) {
  const host = `${there.host}`
  // Without a host Node takes all addresses, of IPv6 too where the system has it.
  const sameHost = asked.host === null ? ['::', '0.0.0.0'].includes(host) : asked.host === host
  return (
    sameHost && (!asked.port || asked.port === there.port) && (net.isIPv4(host) || asked.ipv6Only === there.ipv6Only)
  )
}

/** @param {Address} address */
function inWords({ host, port, ipv6Only }) {
  return `${host ?? 'all addresses'} and port ${port}${ipv6Only ? ', for IPv6 only' : ''}`
}

/** @param {string} name */
function clusterTable(name) {
  const slots = new ClusterSlots(name)
  return () => slots.activeWorkers()
}

/** @typedef {typeof NO_STATS & { waits: typeof NO_WAITS }} Counters */

/**
 * @param {Counters} a
 * @param {Counters} b
 * @returns {Counters}
 */
function sum(a, b) {
  const total = { ...NO_STATS }
  for (const counter of /** @type {(keyof typeof NO_STATS)[]} */ (Object.keys(total)))
    total[counter] = a[counter] + b[counter]
  const counts = a.waits.counts.map((count, bucket) => count + b.waits.counts[bucket])
  return { ...total, waits: { counts, sum: a.waits.sum + b.waits.sum } }
}

module.exports = { Balancer }
