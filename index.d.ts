// The public face of sticky-listen, hand-written. `native.d.ts` beside it is generated and private.

import type { ChildProcess } from 'node:child_process'
import type { Worker } from 'node:cluster'
import type { Server } from 'node:net'

/**
 * Sends every connection to the same worker as all others of its client.
 *
 * @example In the primary process
 * ```js
 * const sticky = require('sticky-listen')
 * sticky.createBalancer(cluster.activeWorkers, { maxRetries: 5, retryDelay: 100 }).listen(8081)
 * ```
 * @example In each worker
 * ```js
 * const sticky = require('sticky-listen')
 * sticky.listen(require('node:http').createServer(app))
 * process.send({ cmd: 'ready' })
 * ```
 */
declare namespace sticky {
  /**
   * Makes a balancer with the workers of a manager.
   *
   * @param activeWorkers as the option of that name
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`: an option of a wrong type or value
   * @throws {RangeError} `ERR_OUT_OF_RANGE`: a number beyond what the option takes
   * @since 4.0.0
   */
  function createBalancer(activeWorkers: ActiveWorkers, options?: Omit<BalancerOptions, 'activeWorkers'>): Balancer

  /**
   * Makes a balancer. Without `activeWorkers` it serves with this process's `node:cluster` workers.
   *
   * @throws as above
   * @since 1.0.0
   */
  function createBalancer(options?: BalancerOptions): Balancer

  /**
   * In a worker process: makes `server` a listening server that takes its connections from the
   * balancers of the parent process. It is listening to Node in every respect; `'listening'` is
   * emitted once a balancer is known, or after 250 ms without one, and `server.address()` is the
   * balancer's. `server.close()` takes no more connections, gives those that were not yet taken to
   * other workers, and calls back when the rest have ended. A worker that its manager disconnects keeps
   * its open connections, takes no new ones, and ends; an HTTP connection ends with its next response.
   *
   * @param server any `net.Server`: of `http`, `https`, `http2`, `net` or `tls`
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: not a server
   * @throws {Error} `ERR_STICKY_NOT_A_WORKER`: this process has no IPC channel to a parent
   * @throws {Error} `ERR_STICKY_NAME_TAKEN`: another server listens under this name here
   * @throws {Error} `ERR_SERVER_ALREADY_LISTEN`: this server listens already
   * @since 1.0.0
   */
  function listen(server: Server, options?: ListenOptions): true

  /**
   * Returns the workers that can take connections now. Its length is the number of slots, and a
   * client stays on its slot as long as that number stays. `null` or nothing is an empty slot. It is
   * called when a worker came, went or sent a message (at most once in a turn of the event loop), once a
   * second, and every `retryDelay` while a connection waits in an empty slot; never for a connection.
   */
  type ActiveWorkers = () => ArrayLike<Worker | ChildProcess | null | undefined>

  interface BalancerOptions {
    /**
     * The workers and their slots.
     *
     * @default the `node:cluster` workers of this process that called `listen`, each in a slot that
     * its successor inherits. When a slot has had no worker for 10 s, the last slot's worker moves into
     * it; after 250 ms when its own was told to go and no other is starting
     * @example recluster
     * ```js
     * createBalancer({ activeWorkers: cluster.activeWorkers })
     * ```
     * @since 1.0.0
     */
    activeWorkers?: ActiveWorkers

    /**
     * Milliseconds between two looks for a worker while a connection waits in an empty slot, 0 to
     * 2147483647. The connection is handed over the moment the slot fills, whenever that is.
     *
     * @default 150
     * @since 1.0.0
     */
    retryDelay?: number

    /**
     * A connection waits in an empty slot for `maxRetries × retryDelay` milliseconds in all, then it
     * is answered `502 Bad Gateway`. An integer of 0 (at once) or more, or `Infinity`.
     *
     * @default 5
     * @since 1.0.0
     */
    maxRetries?: number

    /**
     * Makes balancers with the same seed, on one host or many, choose the same slot for a client. Keep
     * it secret: who knows it can choose his slot. Not empty.
     *
     * @default random for each balancer
     * @since 4.0.0
     */
    seed?: string | Uint8Array

    /**
     * How many leading bits of an IPv6 address tell clients apart, 1 to 128. 64 takes a household for
     * one client, whose devices change their addresses.
     *
     * @default 128
     * @since 4.0.0
     */
    ipv6Prefix?: number

    /**
     * Connections per slot that may wait for their worker to take them, 1 to 4294967295. One more is
     * answered `503 Service Unavailable`.
     *
     * @default 1024
     * @since 4.0.0
     */
    maxPending?: number

    /**
     * Which servers of the workers take the connections: those that listen under the same name.
     *
     * @default 'default'
     * @since 4.0.0
     */
    name?: string
  }

  interface ListenOptions {
    /**
     * Which balancers this server takes connections of: those of the same name.
     *
     * @default 'default'
     * @since 4.0.0
     */
    name?: string
  }

  /** Counts from the balancer's first `listen` on; `waiting` and `slots` are as of now. */
  interface BalancerStats {
    /** Connections that came in. */
    accepted: number
    /** Connections sent to a worker, each counted once. */
    delivered: number
    /** Connections that a worker took over. */
    adopted: number
    /** Times that a connection was sent again, its worker having died, closed or had no room. */
    redelivered: number
    /** Connections answered with 502 or 503, or closed for lack of file descriptors. */
    refused: number
    /** Connections whose client left, or stopped sending, while they waited for a worker. */
    gone: number
    /** Connections not sent yet. */
    waiting: number
    slots: SlotStats[]
  }

  interface SlotStats {
    /** The process that serves the slot; `null` when none does. */
    pid: number | null
    /** Connections not sent yet. */
    waiting: number
    /** Connections sent, which the worker has not taken yet. */
    inFlight: number
    /** Connections that the slot's workers took over. */
    adopted: number
  }

  /**
   * A `net.Server` whose connections go to the workers without JavaScript: so it emits no
   * `'connection'`, `getConnections()` counts none but those that still settle after `close()`, and
   * `maxConnections` has no effect.
   *
   * `close()` stops accepting and frees the port at once. Connections that wait are still handed over,
   * for as long as an empty slot has patience (5 s if that is endless), then refused; those that were
   * sent to a worker by then are left to it. Then `'close'` is emitted.
   */
  class Balancer extends Server {
    constructor(activeWorkers: ActiveWorkers, options?: Omit<BalancerOptions, 'activeWorkers'>)
    constructor(options?: BalancerOptions)
    /** The counters as they are. */
    stats(): BalancerStats
  }
}

export = sticky
