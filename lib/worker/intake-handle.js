'use strict'

// The handle behind a worker's `net.Server`: to Node a listening handle like any other, whose
// connections arrive over private channels from one or more balancers.

const fs = require('node:fs')
const net = require('node:net')
const debug = require('../debug')
const { mark } = require('./adopted')
const { AddressWatch, WaitCounter, peerOf } = require('./sample')
const { SlotListeners } = require('./slot-listeners')
const native = require('../../native')

/**
 * @typedef {import('../messages').Address} Address
 * @typedef {InstanceType<typeof import('./balancer-info').BalancerInfo>} BalancerInfo
 * @typedef {(import('../../native').Source | undefined | null)[] | undefined | null} Sources
 */

// Node's number for a handle that is a connection, in TCP and Pipe alike.
const SOCKET = 0

/** @type {any} */
let TCP

/**
 * Node's class of TCP handles, which it exports nowhere: taken from a socket that is about to look a
 * name up, and never gets an answer.
 */
function tcpHandle() {
  if (!TCP) {
    const socket = new net.Socket()
    socket.connect({ port: 1, host: 'unresolved.invalid', lookup() {} })
    TCP = /** @type {any} */ (socket)._handle.constructor
    socket.destroy()
  }
  return TCP
}

/**
 * A handle of Node's for a descriptor.
 * @param {number} fd
 * @param {any} Connection
 */
function open(fd, Connection) {
  const client = new Connection(SOCKET)
  const error = client.open(fd)
  if (!error) return client
  debug('opening a connection failed: %d', error)
  client.close()
  fs.closeSync(fd)
}

/**
 * @param {number[]} fds
 * @param {Sources} sources
 * @param {any} Connection
 * @param {BalancerInfo | undefined} balancer that they are marked with
 * @param {number[]} slots
 */
function openAll(fds, sources, Connection, balancer, slots) {
  const clients = []
  for (let n = 0; n < fds.length; n++) {
    const client = open(fds[n], Connection)
    if (!client) continue
    mark(client, balancer, slots[n], sources?.[n])
    clients.push(client)
  }
  return clients
}

class IntakeHandle {
  /** @type {Map<native.Intake, InstanceType<typeof SlotListeners>>} with the sockets that came on each */
  #intakes = new Map()
  #onClose
  #connections
  #referenced = true
  /**
   * The balancer of connections that are not marked with another.
   * @type {BalancerInfo | undefined}
   */
  firstBalancer
  /**
   * Set by `net.Server`.
   * @type {((status: number, client: any) => void) | undefined}
   */
  onconnection
  /**
   * Known once a balancer is.
   * @type {((out: object) => number) | undefined}
   */
  getsockname

  /**
   * @param {InstanceType<typeof import('./open-connections').OpenConnections>} connections of the server
   * @param {() => void} onClose
   */
  constructor(connections, onClose) {
    this.#connections = connections
    this.#onClose = onClose
  }

  /**
   * Takes connections from a balancer.
   * @param {any} channel the Pipe handle that came with the message
   * @param {boolean} pipe whether its connections are of a unix socket
   * @param {BalancerInfo} balancer
   * @param {() => void} onEnd called when the balancer closes the channel
   */
  receiveFrom(channel, pipe, balancer, onEnd) {
    const Connection = pipe ? channel.constructor : tcpHandle()
    this.firstBalancer ??= balancer
    const marked = balancer === this.firstBalancer && !balancer.sessions ? undefined : balancer
    /** @type {Float64Array | undefined} of the connections accepted for each slot, where the primary reads it */
    let counters
    /** @type {InstanceType<typeof WaitCounter> | undefined} */
    let waits
    const addresses = new AddressWatch()
    /** How many connections may be accepted before it is to be asked for again. */
    let room = 0
    const intake = new native.Intake(
      channel.fd,
      (fds, sources, slots) => {
        if (fds) {
          const clients = openAll(fds, sources, Connection, marked, slots)
          for (const client of clients) addresses.look(client, balancer)
          this.#receive(intake, clients)
        } else {
          debug('a balancer closed its channel')
          this.#end(intake)
          this.#connections.stopTelling(counters)
          onEnd()
        }
      },
      (slot, number, fd, backlog) => {
        debug(fd === null ? 'accepting for slot %d no more' : 'accepting for slot %d', slot)
        if (fd === null || fd === undefined) return listeners.giveBack(slot, number)
        listeners.open(Connection, slot, number, { fd, backlog }, (client) => accepted(slot, client))
        askForRoom()
      },
      (page) => {
        counters = page
        waits = new WaitCounter(page)
        if (balancer.sessions) this.#connections.tell(page)
      },
    )
    const listeners = new SlotListeners((slot, number) => intake.released(slot, number))
    const askForRoom = () => {
      room = native.room()
      // No descriptors: the primary takes what waits, and lends the sockets again later.
      if (room === 0) listeners.giveAllBack()
    }
    const accepted = (/** @type {number} */ slot, /** @type {any} */ client) => {
      if (debug.enabled) debug('adopting %j', peerOf(client))
      // For each connection, so without calling anything that costs.
      if (counters) counters[slot]++
      if (--room <= 0) askForRoom()
      mark(client, marked, slot)
      waits?.count(client)
      addresses.look(client, balancer)
      this.#adopt(client)
    }
    this.#intakes.set(intake, listeners)
  }

  /**
   * @param {native.Intake} intake
   * @param {any[]} clients
   */
  #receive(intake, clients) {
    // Before the acknowledgement, so that a connection which a killed worker had taken is always in
    // its log.
    if (debug.enabled) for (const client of clients) debug('adopting %j', peerOf(client))
    if (intake.acknowledge()) {
      for (const client of clients) this.#adopt(client)
    } else {
      debug('the primary cannot be answered: %d connections go elsewhere', clients.length)
      this.#end(intake)
      for (const client of clients) client.close()
    }
  }

  /** @param {any} client */
  #adopt(client) {
    try {
      this.onconnection?.(0, client)
    } catch (error) {
      // A listener of the user threw. It surfaces as it does in Node, but the connections that came
      // in the same batch are served first.
      process.nextTick(() => {
        throw error
      })
    }
  }

  /**
   * What the server's `address()` returns. (A unix path is kept by the server itself.)
   * @param {Address} address
   */
  setAddress(address) {
    this.getsockname = (/** @type {object} */ out) => {
      Object.assign(out, address)
      return 0
    }
  }

  /** Takes no more connections; what was not adopted goes to other workers. */
  stop() {
    for (const intake of this.#intakes.keys()) {
      this.#end(intake)
      intake.close()
    }
  }

  /**
   * Nothing more comes from a balancer.
   * @param {native.Intake} intake
   */
  #end(intake) {
    this.#intakes.get(intake)?.close()
    this.#intakes.delete(intake)
  }

  // From here on: what Node calls.

  listen() {
    return 0
  }

  /** @param {() => void} [callback] */
  close(callback) {
    this.stop()
    this.#onClose()
    if (callback) process.nextTick(() => callback.call(this))
  }

  // What keeps a worker alive is its IPC channel, as with the cluster module's own handles.

  ref() {
    this.#referenced = true
  }

  unref() {
    this.#referenced = false
  }

  hasRef() {
    return this.#referenced
  }
}

module.exports = { IntakeHandle }
