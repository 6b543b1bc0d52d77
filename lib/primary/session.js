'use strict'

// A balancer from listen() to close(): keeps the native side's table of slots in step with the
// manager's, and hands each worker its private channel.

const fs = require('node:fs')
const { inspect } = require('node:util')
const { nativeSessions } = require('../affinity')
const debug = require('../debug')
const { cannotTakeOver } = require('../errors')
const messages = require('../messages')
const native = require('../../native')
const warnings = require('../warnings')
const { Advice } = require('./advice')
const { tell } = require('./events')
const { HandOver } = require('./hand-over')
const { Refusals } = require('./refusals')
const { readTable } = require('./table')
const { WorkerEvents } = require('./worker-events')
const { workers } = require('./workers')

/** @typedef {InstanceType<typeof import('./workers').Member>} Member */

// For managers whose tables change without any event that we see, in milliseconds. While a
// connection waits in an empty slot, the table is read every `retryDelay` as well.
const REFRESH_INTERVAL = 1000

// Bytes of the key under which clients are hashed. What follows is that of tokens.
const KEY_LENGTH = 8

// A version with fewer slots than the one before may have workers that are still to come. It takes over when for so long,
// in milliseconds, none has.
const FEWER_SLOTS_AFTER = 10_000

// Channels that a worker may have to a balancer. It needs one; those of servers that it has closed end soon. More would
// only take the primary's descriptors.
const MAX_CHANNELS = 8

// Workers know a channel by this: the native side's numbers are each balancer's own.
let lastChannel = 0

/**
 * Those that listen. Workers share their sockets: a process that exits has to shut them down, or its port stays taken
 * until they have noticed.
 * @type {Set<Session>}
 */
const listening = new Set()
process.on('exit', () => {
  for (const session of listening) session.abort()
})

/**
 * Where a balancer listens.
 * @typedef {object} Place
 * @property {string | undefined} obstacle why the kernel cannot steer there
 * @property {boolean} isShared whether the socket was given, so that somebody else has it as well
 * @property {native.Inheritance | undefined} inheritance of the primary that it takes over from
 */

/**
 * @typedef {object} Channel
 * @property {number} id what the worker knows it by
 * @property {Member} member
 * @property {number} listener the number of the worker's server
 * @property {InstanceType<typeof HandOver>} handOver
 * @property {string} told which slots the worker was last told to serve
 */

class Session {
  #server
  #options
  #activeWorkers
  #onEnd
  #native
  /** @type {messages.Identity | null} for workers, if connections are of the client that requests name */
  #identity = null
  /** @type {Map<number, Channel>} by its number */
  #channels = new Map()
  /** @type {Map<Member, number>} the newest channel of each worker */
  #channelOf = new Map()
  /** @type {WeakMap<Member, InstanceType<typeof HandOver>>} the newest channel's */
  #handOvers = new WeakMap()
  /** @type {Set<Member>} the workers that were ever in the table */
  #known = new Set()
  /** @type {number[]} as the native side has it */
  #table = []
  /** @type {messages.Address} */
  #address = null
  #pipe = false
  /** @type {string | undefined} why the kernel does not steer */
  #obstacle
  /** Whether somebody else has the socket as well. */
  #isShared
  /** @type {native.Inheritance | undefined} until it takes over */
  #inheritance
  /** How many slots the primary has that it takes over from. */
  #slotsBefore
  /** When the table grew last. */
  #grewAt = performance.now()
  /** @type {boolean | null} whether another primary can take over; null: it could not be made so */
  #offered = false
  #tableFailed = false
  #closing = false
  #draining = false
  #events
  #refusals
  /** @type {InstanceType<typeof Advice> | undefined} while it listens */
  #advice
  #began = performance.now()
  /** @type {NodeJS.Timeout | undefined} */
  #timer
  /** @type {import('../../native').Stats | undefined} after the end */
  #last

  /**
   * @param {import('node:net').Server & Record<string, any>} server
   * @param {import('../options').Options} options
   * @param {import('../..').ActiveWorkers} activeWorkers
   * @param {Place} place
   * @param {() => void} onEnd called when the counters will not change any more
   */
  constructor(server, options, activeWorkers, { obstacle, isShared, inheritance }, onEnd) {
    this.#server = server
    this.#onEnd = onEnd
    this.#options = options
    this.#activeWorkers = activeWorkers
    this.#obstacle = obstacle
    this.#isShared = isShared
    this.#inheritance = inheritance
    // Native code takes the inheritance away.
    this.#slotsBefore = inheritance?.slots ?? 0
    const secrets = (options.seeded ? undefined : inheritance?.secrets) ?? options.secrets
    const [key, tokenKey] = [secrets.subarray(0, KEY_LENGTH), secrets.subarray(KEY_LENGTH)].map((part) =>
      Buffer.from(part),
    )
    const { ipv6Prefix, behindProxy, cipHeader, trustProxy, affinity, ...rest } = options
    const { maxRetries, retryDelay, maxHeaderSize } = rest
    const identity = { ipv6Prefix, header: behindProxy ? cipHeader : undefined, ...trustProxy }
    if (behindProxy || affinity) {
      const sessions = affinity && { ...affinity, key: tokenKey.toString('base64') }
      this.#identity = { ...identity, maxHeaderSize, key: key.toString('base64'), sessions }
    }
    this.#events = new WorkerEvents(server)
    this.#refusals = new Refusals(
      () => this.#native.takeRefusals(),
      (slot, status) => this.#whyRefused(slot, status),
      (event) => tell(server, 'refuse', event),
    )
    // Infinity times 0 is no patience, as 0 means none.
    const patience = retryDelay === 0 ? 0 : maxRetries * retryDelay
    this.#native = new native.Balancer(
      {
        ...rest,
        identity: { ...identity, key, sessions: affinity && nativeSessions(affinity, tokenKey) },
        secrets,
        patience,
      },
      (kind, channel, detail) => this.#onReport(kind, channel, detail),
    )
  }

  /**
   * @param {number | undefined} fd
   * @param {number} backlog
   */
  listen(fd, backlog) {
    const error = this.#native.start()
    this.#native.drain(this.#draining)
    if (error || fd === undefined) return error
    const steer = this.#obstacle === undefined
    debug(steer ? 'the kernel steers' : 'connections are handed over: %s', this.#obstacle ?? '')
    if (this.#inheritance) return this.#native.standBy(this.#inheritance, steer)
    // Whoever else has it keeps its queue while this program starts.
    if (this.#isShared) this.#native.hold()
    return this.#native.listen(fd, backlog, steer)
  }

  /** @returns {import('../..').Steering} */
  steering() {
    const obstacle = this.#obstacle ?? this.#native.steeringFailure()
    return obstacle
      ? { mode: 'handover', reason: obstacle }
      : { mode: 'kernel', reason: 'the address of a connection is its client' }
  }

  /** @param {boolean} draining */
  drain(draining) {
    this.#draining = draining
    if (!this.#last) this.#native.drain(draining)
  }

  /** @param {number} fd */
  inject(fd) {
    this.#native.inject(fd)
  }

  start() {
    // Now, as the server may listen elsewhere before the last channel of this session is opened.
    this.#address = this.#server.address()
    this.#pipe = typeof this.#address === 'string' || this.#server._handle?.constructor.name === 'Pipe'
    listening.add(this)
    const path = typeof this.#address === 'string' && this.#isOneClient ? this.#address : undefined
    this.#advice = new Advice(this.#options, path)
    if (this.#inheritance)
      debug('waits until all slots have workers, to take over; before there were %d', this.#slotsBefore)
    else this.#offer()
    workers().on('change', this.#onChange)
    this.#timer = setInterval(() => {
      this.#refresh()
      this.#keepOffering()
    }, REFRESH_INTERVAL).unref()
    this.#refresh()
  }

  /** Everything ends at once, with the process. */
  abort() {
    this.#last ??= this.#native.stats()
    this.#native.dispose()
  }

  close() {
    if (this.#closing) return
    this.#closing = true
    this.#advice = undefined
    this.#events.end()
    const unsettled = this.#native.close()
    if (unsettled === 0) {
      this.#end()
      return
    }
    debug('closing: %d connections to settle', unsettled)
    // They are the server's connections until then: 'close' waits, and so does the process.
    this.#server._connections += 1
    this.#timer?.ref()
  }

  stats() {
    const stats = this.#last ?? this.#native.stats()
    const adopted = stats.slots.reduce((sum, slot) => sum + slot.adopted, 0)
    const slots = stats.slots.map(({ channel, steered, ...counters }) => ({
      pid: this.#pidOf(channel),
      steering: /** @type {import('../..').Steering['mode']} */ (steered ? 'kernel' : 'handover'),
      ...counters,
      share: adopted > 0 ? counters.adopted / adopted : 0,
    }))
    return { ...stats, slots }
  }

  /** Seconds since it listens. */
  get uptime() {
    return (performance.now() - this.#began) / 1000
  }

  /** @param {string} client */
  slotOf(client) {
    const isOne = this.#isOneClient && !this.#options.affinity
    const slot = this.#last ? null : this.#native.slotOf(isOne ? undefined : client)
    return slot === null ? null : { slot, pid: this.#pidOf(this.#native.stats().slots[slot]?.channel) }
  }

  /** Whether all clients are one, as their connections have no addresses and nobody speaks for them. */
  get #isOneClient() {
    const { affinity, behindProxy, proxyProtocol } = this.#options
    return this.#pipe && !behindProxy && !proxyProtocol && affinity?.fallback !== 'room'
  }

  /** @param {number} channel */
  #pidOf(channel) {
    return this.#channels.get(channel)?.member.pid ?? null
  }

  #onChange = (/** @type {Member[]} */ changed) => {
    for (const member of changed) {
      // Workers of a cluster get their channel before the manager calls them active, so that they can
      // serve from that moment on.
      if (member.clusterWorker || this.#known.has(member)) this.#connect(member)
      if (!member.connected) this.#abandon(member)
    }
    this.#refresh()
  }

  #refresh() {
    if (this.#last) return
    let members
    try {
      members = readTable(this.#activeWorkers)
      this.#tableFailed = false
    } catch (error) {
      this.#warnTable(error)
      return
    }
    this.#advice?.look(members, () => this.#native.stats())
    const table = members.map((member) => {
      if (!member) return 0
      this.#known.add(member)
      if (!member.listeners.has(this.#options.name)) workers().query(member)
      this.#connect(member)
      return this.#channelOf.get(member) ?? native.PENDING
    })
    if (table.length === this.#table.length && table.every((entry, slot) => entry === this.#table[slot])) {
      // What has not changed for long enough may be all that there will be.
      this.#takeOverIfReady()
      return
    }
    debug('slots: %j', table)
    if (table.length > this.#table.length) this.#grewAt = performance.now()
    this.#table = table
    this.#native.setTable(table)
    this.#tellSlots('replaced')
  }

  /**
   * Tells everybody who serves the slots now, if that has changed.
   * @param {import('../..').EndReason | 'replaced'} reason why a slot may have lost its worker
   */
  #tellSlots(reason) {
    this.#takeOverIfReady()
    const serving = this.#serving
    this.#tellWorkers(serving)
    const servers = serving.map((channel) => {
      const member = this.#channels.get(channel)?.member
      return member ? { channel, member } : null
    })
    this.#events.follow(servers, reason)
  }

  /** The channel that serves each slot, or 0. */
  get #serving() {
    return this.#native.stats().slots.map(({ channel }) => channel)
  }

  /**
   * Takes over once all slots have workers, and there are as many as before. Where tables grow as workers come, the first of
   * them is a whole table, and would have to do the work of all.
   */
  #takeOverIfReady() {
    if (!this.#inheritance) return
    const serving = this.#serving
    if (serving.length === 0 || !serving.every(Boolean)) return
    const settled = performance.now() - this.#grewAt >= FEWER_SLOTS_AFTER
    if (serving.length >= this.#slotsBefore || settled) this.#native.takeOver()
  }

  /** Serves in the place of the primary before. */
  #onTookOver() {
    debug('takes over')
    this.#inheritance = undefined
    this.#offer()
    this.#tellSlots('replaced')
    process.nextTick(() => this.#server.emit('takeover'))
  }

  /** Yet another version was ready first, and serves. */
  #onOutrun() {
    const { takeOver } = this.#options
    this.#server.close()
    process.nextTick(() => this.#server.emit('error', cannotTakeOver(`${takeOver}`, 'another version was ready first')))
  }

  /** Lets another primary take over. */
  #offer() {
    const { takeOver } = this.#options
    if (takeOver === undefined) return
    try {
      this.#native.offer(takeOver)
      this.#offered = true
    } catch (error) {
      // Said once; it is tried again and again.
      if (this.#offered !== null) warnings.notOffered(takeOver, /** @type {Error} */ (error).message)
      this.#offered = null
    }
  }

  /** Offers again what could not be offered, or whose file is gone: some programs remove old files. */
  #keepOffering() {
    const { takeOver } = this.#options
    if (takeOver === undefined || this.#offered === false || this.#closing) return
    if (this.#offered === null || !fs.existsSync(takeOver)) this.#offer()
  }

  /**
   * Tells each worker which slots it serves.
   * @param {number[]} serving the channel of each slot, or 0
   */
  #tellWorkers(serving) {
    for (const [number, channel] of this.#channels) {
      const own = serving.flatMap((other, slot) => (other === number ? [slot] : []))
      const told = `${own} of ${serving.length}`
      // One that has served none yet has nothing to learn.
      if (told === channel.told || (own.length === 0 && channel.told === '')) continue
      channel.told = told
      const { member, listener, id } = channel
      member.send(messages.slots({ listener, channel: id, slots: serving.length, own }))
    }
  }

  /**
   * The table stays as it was: a manager that fails for a moment must not cost anybody his worker.
   * @param {unknown} error
   */
  #warnTable(error) {
    if (this.#tableFailed) return
    this.#tableFailed = true
    if (error instanceof Error) warnings.activeWorkersFailed(error.message, error.stack)
    else warnings.activeWorkersFailed(inspect(error))
  }

  /**
   * Hands a worker its channel, if it listens and has none.
   * @param {Member} member
   */
  #connect(member) {
    const listener = member.listeners.get(this.#options.name)
    // A handle that reaches Node in one read with the word to go ends the worker, as it cannot be acknowledged any more.
    if (listener === undefined || !member.connected || member.isLeaving) return
    const present = this.#channels.get(this.#channelOf.get(member) ?? 0)
    if (present?.listener === listener) return
    // The last one may still wait for room in the pipe to a worker that does not read.
    if (this.#handOvers.get(member)?.sending) return
    if (this.#countChannels(member) >= MAX_CHANNELS) return
    /** @type {import('../../native').OpenedChannel} */
    let opened
    try {
      opened = this.#native.openChannel()
    } catch (error) {
      // No descriptors left. The next refresh tries again.
      debug('no channel for worker %d: %s', member.pid, error)
      return
    }
    const handOver = new HandOver(opened.fd)
    this.#handOvers.set(member, handOver)
    const id = ++lastChannel
    this.#channels.set(opened.channel, { id, member, listener, handOver, told: '' })
    this.#channelOf.set(member, opened.channel)
    debug('worker %d: offered channel %d', member.pid, opened.channel)
    const content = { listener, channel: id, pipe: this.#pipe, address: this.#address, identity: this.#identity }
    member.send(messages.channel(content), handOver)
  }

  /** @param {Member} member */
  #countChannels(member) {
    let count = 0
    for (const channel of this.#channels.values()) if (channel.member === member) count++
    return count
  }

  /**
   * Ends the channels that a worker never received.
   * @param {Member} member
   */
  #abandon(member) {
    this.#known.delete(member)
    for (const channel of this.#channels.values()) {
      if (channel.member === member) channel.handOver.release()
    }
  }

  /**
   * @param {string} kind
   * @param {number} number
   * @param {string} detail
   */
  #onReport(kind, number, detail) {
    // What was on its way when everything ended.
    if (this.#last) return
    const channel = this.#channels.get(number)
    if (kind === 'starving') {
      this.#refresh()
    } else if (kind === 'opened' && channel) {
      debug('worker %d: channel %d is open', channel.member.pid, number)
      channel.handOver.release()
      this.#events.up({ channel: number, member: channel.member })
      this.#tellSlots('replaced')
    } else if (kind === 'ended' && channel) {
      debug('worker %d: channel %d ended: %s', channel.member.pid, number, detail)
      this.#onEnded(number, channel, detail)
    } else if (kind === 'superseded' && !this.#closing) {
      debug('another primary has taken over')
      this.#tellSlots('replaced')
      process.nextTick(() => this.#server.emit('superseded'))
      this.#server.close()
    } else if (kind === 'took-over' && !this.#closing) {
      this.#onTookOver()
    } else if (kind === 'outrun' && !this.#closing) {
      this.#onOutrun()
    } else if (kind === 'refused') {
      this.#refusals.announce()
    } else if (kind === 'settled') {
      this.#server._connections -= 1
      this.#end()
      this.#server._emitCloseIfDrained()
    }
  }

  /**
   * @param {number} number
   * @param {Channel} channel
   * @param {string} why
   */
  #onEnded(number, { member, listener, handOver }, why) {
    handOver.release()
    this.#channels.delete(number)
    if (this.#channelOf.get(member) === number) this.#channelOf.delete(member)
    const reason = endReason(why)
    const version = /^version (\d+)$/.exec(why)
    if (version) member.refuseVersion(Number(version[1]))
    this.#events.down(number, reason)
    // A worker that was only too busy to say hello gets another channel; any other has to listen anew.
    if (why !== 'silent') member.forget(listener)
    this.#tellSlots(reason)
    this.#refresh()
  }

  /**
   * @param {number | null} slot
   * @param {import('../..').RefuseEvent['status']} status
   */
  #whyRefused(slot, status) {
    if (status === null) return 'no file descriptors are left'
    if (status === 503) return `more than maxPending (${this.#options.maxPending}) wait`
    if (this.#closing) return 'the balancer closes'
    if (slot === null) {
      if (this.#table.length > 0) return 'no slot has a worker'
      return this.#options.activeWorkers
        ? 'activeWorkers() returns no slots'
        : 'no worker has called sticky.listen(server)'
    }
    const entry = this.#table[slot]
    if (entry === native.PENDING) return 'its worker has no server that listens by sticky.listen(server)'
    return entry ? 'its worker is not ready' : 'it has no worker'
  }

  #end() {
    listening.delete(this)
    workers().off('change', this.#onChange)
    clearInterval(this.#timer)
    this.#refusals.end()
    this.#advice = undefined
    this.#last = this.#native.stats()
    // Not left to the garbage collector: native code holds a callback that holds this.
    this.#native.dispose()
    for (const { handOver } of this.#channels.values()) handOver.release()
    this.#channels.clear()
    this.#onEnd()
  }
}

/**
 * @param {string} detail what native code says of the end of a channel
 * @returns {import('../..').EndReason}
 */
function endReason(detail) {
  if (detail === 'closed' || detail === 'broken') return detail
  return 'fault'
}

module.exports = { Session }
