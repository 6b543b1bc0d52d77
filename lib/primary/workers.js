'use strict'

// The worker processes of this one, and which of them take connections under which name. One for the
// process, whatever number of balancers it has: each worker is listened to once.

const { EventEmitter } = require('node:events')
const cluster = require('node:cluster')
const debug = require('../debug')
const messages = require('../messages')
const warnings = require('../warnings')

/** @typedef {import('node:child_process').ChildProcess} ChildProcess */
/** @typedef {import('node:cluster').Worker} ClusterWorker */
/** @typedef {InstanceType<typeof import('./hand-over').HandOver>} HandOver */

/**
 * A worker process as balancers see it.
 */
class Member {
  /** @type {Set<HandOver>} on their way */
  #handOvers = new Set()

  /**
   * @param {ChildProcess} child
   * @param {ClusterWorker} [clusterWorker]
   */
  constructor(child, clusterWorker) {
    this.child = child
    this.clusterWorker = clusterWorker
    /** When it was heard of first: when it was forked, if it is of node:cluster and there was a balancer. */
    this.since = performance.now()
    /** Whether it was asked who listens. */
    this.queried = false
    /** Whether it speaks another version. */
    this.foreign = false
    /** @type {Map<string, number>} for each name, the number of the server that listens */
    this.listeners = new Map()
  }

  get pid() {
    return this.child.pid
  }

  /** Whether messages can reach it. */
  get connected() {
    return this.child.connected
  }

  /** Whether it was told to go. Of its workers node:cluster knows; a child process that was told is not connected. */
  get isLeaving() {
    return this.clusterWorker?.exitedAfterDisconnect === true
  }

  /**
   * Sends a message. A worker that dies meanwhile is no error: its end is noticed by itself.
   * @param {object} message
   * @param {HandOver} [handOver]
   */
  send(message, handOver) {
    if (handOver) this.#handOvers.add(handOver)
    const sent = (/** @type {unknown} */ error) => {
      if (error) debug('message to worker %d failed: %s', this.pid, error)
      if (handOver) this.#settle(handOver)
    }
    if (!this.connected) return sent('disconnected')
    try {
      this.child.send(message, handOver?.handle, sent)
    } catch (error) {
      sent(error)
    }
  }

  /** Its IPC channel is closed: what was not written never will be. */
  disconnected() {
    this.listeners.clear()
    for (const handOver of this.#handOvers) this.#settle(handOver)
  }

  /** @param {HandOver} handOver */
  #settle(handOver) {
    this.#handOvers.delete(handOver)
    handOver.sent()
  }

  /**
   * It speaks another version, so that it gets no connections.
   * @param {number} version
   */
  refuseVersion(version) {
    if (!this.foreign) warnings.otherVersion(this.pid ?? 0, version, messages.VERSION)
    this.foreign = true
  }

  /**
   * A server of the worker takes no more connections.
   * @param {number} listener
   */
  forget(listener) {
    for (const [name, number] of this.listeners) {
      if (number === listener) this.listeners.delete(name)
    }
  }
}

/**
 * Emits `'change'` with the members about which something changed, after the handlers of others for
 * the same cause have run: managers keep their tables in such handlers.
 */
class Workers extends EventEmitter {
  /** @type {WeakMap<ChildProcess, Member>} */
  #members = new WeakMap()
  /** @type {Set<Member>} */
  #changed = new Set()

  constructor() {
    super()
    // One listener for each listening balancer.
    this.setMaxListeners(0)
    for (const worker of Object.values(cluster.workers ?? {})) this.member(worker)
    cluster.on('fork', (worker) => this.member(worker))
  }

  /**
   * The member for what a manager calls a worker: a `cluster.Worker`, a `ChildProcess`, or anything
   * that can send like one. `undefined` for what cannot.
   * @param {any} worker
   * @returns {Member | undefined}
   */
  member(worker) {
    const child = typeof worker?.process?.send === 'function' ? worker.process : worker
    if (typeof child?.send !== 'function' || typeof child.on !== 'function') return undefined
    let member = this.#members.get(child)
    if (!member) {
      member = new Member(child, child === worker ? undefined : worker)
      this.#members.set(child, member)
      this.#watch(member)
    }
    return member
  }

  /**
   * Asks a worker which servers it has, once: it may have said so before it was listened to.
   * @param {Member} member
   */
  query(member) {
    if (member.queried) return
    member.queried = true
    member.send(messages.query())
  }

  /** @param {Member} member */
  #watch(member) {
    const { child } = member
    child.on('message', (/** @type {unknown} */ message) => {
      this.#onMessage(member, messages.parse(message))
      this.#change(member)
    })
    for (const event of ['disconnect', 'exit']) {
      child.once(event, () => {
        debug('worker %d: %s', member.pid, event)
        if (event === 'disconnect') member.disconnected()
        this.#change(member)
      })
    }
    this.#change(member)
  }

  /** @param {Member} member */
  #change(member) {
    if (this.#changed.size === 0) {
      setImmediate(() => {
        const changed = [...this.#changed]
        this.#changed.clear()
        this.emit('change', changed)
      })
    }
    this.#changed.add(member)
  }

  /**
   * @param {Member} member
   * @param {ReturnType<typeof messages.parse>} message
   */
  #onMessage(member, message) {
    if (!message) return
    if (messages.isListening(message)) {
      if (message.version !== messages.VERSION) {
        member.refuseVersion(message.version)
        return
      }
      debug('worker %d listens as %j', member.pid, message.name)
      member.listeners.set(message.name, message.listener)
    } else if (message.cmd === 'sticky-listen:closed') {
      debug('worker %d closed its server', member.pid)
      member.forget(message.listener)
    }
  }
}

/** @type {Workers | undefined} */
let instance

/** The workers of this process, watched from the first call on. */
function workers() {
  instance ??= new Workers()
  return instance
}

module.exports = { Member, workers }
