// The public face of sticky-listen, hand-written. `native.d.ts` beside it is generated and private.

import type { ChildProcess } from 'node:child_process'
import type { Worker } from 'node:cluster'
import type { IncomingMessage } from 'node:http'
import type { Server, Socket } from 'node:net'

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
   * its open connections, takes no new ones, and ends.
   *
   * An HTTP/1 connection that is kept open ends with its next response (`Connection: close`) when the
   * worker was disconnected or serves no slot any more, as others do in its place; and, with
   * `behindProxy` or `affinity` and a plain `http.Server`, when its request is of a client or session whose slot
   * another worker serves. That happens when a proxy sends requests of several clients on one connection; for a
   * minute after each such request all connections of that proxy end so. Where new clients go where there is room
   * (`affinity`), one whose request shows no session ends so too, or shows it in the query without a cookie of the same slot.
   *
   * @param server any `net.Server`: of `http`, `https`, `http2`, `net` or `tls`
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: not a server
   * @throws {Error} `ERR_STICKY_NOT_A_WORKER`: this process has no IPC channel to a parent, or this is a thread
   * @throws {Error} `ERR_STICKY_NAME_TAKEN`: another server listens under this name here
   * @throws {Error} `ERR_SERVER_ALREADY_LISTEN`: this server listens already
   * @since 1.0.0
   */
  function listen(server: Server, options?: ListenOptions): true

  /**
   * In a worker: the address of the proxy through which a connection came that it named another client of
   * (the option `proxyProtocol`), as `socket.remoteAddress` and its kind are the client's then. Its properties
   * are missing when the proxy came through a unix socket.
   *
   * @param socket of `net` or `tls`, or an HTTP/2 session's (`session.socket`); or a request
   * @returns `undefined` for any other connection, and once the socket is closed
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: neither request nor socket
   * @since 4.0.0
   */
  function proxyAddress(socket: IncomingMessage | Socket): ProxyAddress | undefined

  interface ProxyAddress {
    address?: string
    port?: number
    family?: string
  }

  /**
   * In a worker, with the option `affinity`: the token of the slot that a connection came by. A client whose requests show
   * it, in the query parameter or the cookie that the option names, comes back to this slot from whatever address. It is
   * 16 letters, digits, `-` and `_`, always the same for a slot, and means nothing without the balancer's `seed`.
   *
   * @param from a request of HTTP/1, or its socket
   * @returns `undefined` without the option, and once the socket is closed
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: neither request nor socket
   * @since 4.0.0
   */
  function token(from: IncomingMessage | Socket): string | undefined

  /**
   * Makes ids of engine.io sessions, and so of socket.io's, that bear the token of their slot: 20 random characters, a
   * dot, and the token. For `affinity: { query: 'sid' }`.
   *
   * @param request the one that begins the session
   * @returns without the option `affinity`, random characters alone
   * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: neither request nor socket
   * @example
   * ```js
   * io.engine.generateId = sticky.generateId
   * ```
   * @since 4.0.0
   */
  function generateId(request: IncomingMessage): string

  /**
   * Returns the workers that can take connections now. Its length is the number of slots, and a
   * client stays on its slot as long as that number stays the same. `null` or nothing is an empty slot. It is
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
    activeWorkers?: ActiveWorkers | undefined

    /**
     * Milliseconds between two looks for a worker while a connection waits in an empty slot, 0 to
     * 2147483647. The connection is handed over the moment the slot fills, whenever that is.
     *
     * @default 150
     * @since 1.0.0
     */
    retryDelay?: number | undefined

    /**
     * A connection waits in an empty slot for `maxRetries × retryDelay` milliseconds in all, then it
     * is answered `502 Bad Gateway`. An integer of 0 (at once) or more, or `Infinity`.
     *
     * @default 5
     * @since 1.0.0
     */
    maxRetries?: number | undefined

    /**
     * Makes balancers with the same seed, on one host or many, choose the same slot for a client. Keep
     * it secret: whoever knows it can choose its slot. Not empty, and no word that can be guessed: 16 random bytes or more.
     *
     * @default random for each balancer
     * @since 4.0.0
     */
    seed?: string | Uint8Array | undefined

    /**
     * How many leading bits of an IPv6 address tell clients apart, 1 to 128. 64 takes a household for
     * one client, whose devices change their addresses.
     *
     * @default 128
     * @since 4.0.0
     */
    ipv6Prefix?: number | undefined

    /**
     * Connections per slot that may wait for their worker to take them, 1 to 4294967295. One more is
     * answered `503 Service Unavailable`.
     *
     * @default 1024
     * @since 4.0.0
     */
    maxPending?: number | undefined

    /**
     * Whether the header `cipHeader` of a connection's first request names its client. Without it, or where
     * it is not found, the peer's own address does: in a TLS or HTTP/2 connection, in what is no HTTP,
     * beyond `headerTimeout` and `maxHeaderSize`. The worker gets every byte.
     *
     * @default false
     * @see https://github.com/spion/sticky-session/blob/main/docs/behind-a-proxy.md
     * @since 1.0.0
     */
    behindProxy?: boolean | undefined

    /**
     * The header that names the client, in any case. Of a list of addresses, as `X-Forwarded-For` is, the
     * left-most counts, or the one that `trustProxy` leads to; with or without port, quotation marks and
     * brackets. Of `forwarded` the `for` parameters are read (RFC 7239). A value without any address is
     * a name: it is hashed as it is. Has no effect without `behindProxy`.
     *
     * @default 'x-forwarded-for'
     * @since 1.0.0
     */
    cipHeader?: string | undefined

    /**
     * Whose word counts, as Express has it. A number: this many hops, of which the peer is the first; 1
     * takes the right-most address of the header, 0 the peer. Networks (addresses, CIDRs, `'loopback'`,
     * `'linklocal'`, `'uniquelocal'`; an array, or a string with commas): the right-most address outside
     * them; a peer outside them is its own client, whatever it says, and may not speak the PROXY
     * protocol. A peer on a unix socket is trusted. Has no effect without `behindProxy` or `proxyProtocol`; a number needs
     * `behindProxy`.
     *
     * @default everybody's: anybody can claim to be any client
     * @since 4.0.0
     */
    trustProxy?: number | string | string[] | undefined

    /**
     * Milliseconds for what identifies a client to arrive, 1 to 2147483647. Then the peer's address decides;
     * where a PROXY header is required, the connection is closed. Has no effect without `behindProxy`, `proxyProtocol` or
     * `affinity`.
     *
     * @default 10000
     * @since 4.0.0
     */
    headerTimeout?: number | undefined

    /**
     * Bytes of a request's head, and of a PROXY header, that are looked at, 256 to 65536. Beyond them as
     * for `headerTimeout`. Has no effect where that has none.
     *
     * @default 16384
     * @since 4.0.0
     */
    maxHeaderSize?: number | undefined

    /**
     * Whether every connection begins with a PROXY protocol header, of version 1 or 2, which names the
     * client. The worker does not see it: there `socket.remoteAddress`, `remotePort` and `remoteFamily`
     * are the client's, and `proxyAddress(socket)` is the proxy. Where the header names nobody (`LOCAL`,
     * `UNKNOWN`, a unix socket), the peer is the client. A connection without a valid header is
     * closed, and counted as `rejected`. Together with `behindProxy`, the request's header decides the
     * slot, and this address is its peer.
     *
     * @default false
     * @since 4.0.0
     */
    proxyProtocol?: boolean | undefined

    /**
     * By what a connection finds its slot. `'address'`: by its client's address, or by what `behindProxy` or
     * `proxyProtocol` say instead. An object: by its session, wherever it comes from. The first request of the connection
     * shows the token of the session's slot (see `sticky.token`), and a successor of the slot's worker inherits it; the
     * tokens of other slots stay good when slots come or go. A client that shows no token, or one of another balancer or of
     * a slot that is gone, is new. Where no request of HTTP/1 can be read, as in TLS, the address decides; where nothing
     * comes within `headerTimeout`, the connection is closed.
     *
     * @default 'address'
     * @throws {TypeError} `ERR_INVALID_ARG_VALUE`: neither `query` nor `cookie`
     * @see https://github.com/spion/sticky-session/blob/main/docs/sessions.md
     * @since 4.0.0
     */
    affinity?: 'address' | Affinity | undefined

    /**
     * Who brings connections to their workers. `'kernel'`: Linux itself, by a program that computes the client's slot; each
     * worker accepts its connections from the kernel, and the primary process is in nobody's way. It takes out of
     * the kernel's queues only what a worker cannot take. `'handover'`: the primary process accepts connections and hands
     * them over. `'auto'`: the kernel where it can, which is where the client is the peer's address (none of
     * `behindProxy`, `proxyProtocol` and `affinity`), on Linux, listening on a port, with at most 256 slots; else the hand-over.
     * Clients have the same slots either way. `balancer.steering` says which it is, and why.
     *
     * @default 'auto'
     * @throws {Error} `ERR_STICKY_STEERING`: it is `'kernel'`, and the kernel cannot; by `createBalancer`, or by `listen`
     * for a path, `fd`, `handle` or `reusePort` (with a host, which is looked up first, it is an `'error'` event)
     * @since 4.0.0
     */
    steering?: 'auto' | 'kernel' | 'handover' | undefined

    /**
     * A path at which a new version of the program takes over from the running one, without a moment in which nobody listens.
     * A balancer that listens offers itself there. One that is to listen gets the listening sockets and the secrets of
     * whoever offers itself, and takes its place when all its own slots have workers; the other then closes. A version that has
     * fewer slots than the running one waits until no slot has come for 10 s. The folder must be one in which no other user may
     * write.
     *
     * @default none: nobody can take over
     * @throws {Error} `ERR_STICKY_TAKE_OVER`, by `listen`: the folder is not private or missing, at the path is a file that is
     * no socket, this `listen` is not given a port, or another address or port than the running balancer has, or that one
     * does not answer (with a host, which is looked up first, it is an `'error'` event); as an `'error'` event: yet another
     * version was ready first
     * @see https://github.com/spion/sticky-session/blob/main/docs/upgrade.md
     * @since 4.0.0
     */
    takeOver?: string | undefined

    /**
     * Which servers of the workers take the connections: those that listen under the same name.
     *
     * @default 'default'
     * @since 4.0.0
     */
    name?: string | undefined
  }

  /** Where requests show the token of their session: `query`, `cookie` or both. The query goes first. */
  type Affinity = AffinityOptions & ({ query: string } | { cookie: string | AffinityCookie })

  interface AffinityOptions {
    /**
     * A parameter of the query, whose value is a token or ends in a dot and a token: `'sid'` for socket.io and engine.io
     * with `sticky.generateId`. Not empty.
     */
    query?: string | undefined
    /**
     * A cookie. A worker's server of `http` or `https` sets it with the response to each request that shows no session,
     * whatever else the response sets, unless it sets a cookie of that name itself, the request has a cookie of that name
     * which is not a bare token, or a browser would not have sent the cookie with it. A string is its name.
     */
    cookie?: string | AffinityCookie | undefined
    /**
     * Where new clients go. `'room'`: to the less loaded of two slots that are drawn from those whose worker keeps up, by
     * the connections that wait and those that the worker has open. `'address'`: to the slot of their address.
     *
     * @default 'room'
     */
    fallback?: 'room' | 'address' | undefined
  }

  /** The cookie that holds a token. */
  interface AffinityCookie {
    /** With the prefix `__Secure-` or `__Host-` it is `Secure`; with `__Host-` it takes neither `path` nor `domain`. */
    name: string
    /** Begins with a slash. Only requests within it, as the worker sees them, set the cookie. @default '/' */
    path?: string | undefined
    /** @default none: the host alone that set it */
    domain?: string | undefined
    /** Requests from other sites to which browsers do not add such a cookie do not set it. @default 'lax' */
    sameSite?: 'lax' | 'strict' | 'none' | undefined
    /**
     * Whether it is sent back over TLS alone. `'auto'`: if the request came over TLS, here or by its header
     * `X-Forwarded-Proto` or `Forwarded`.
     *
     * @default 'auto', and `true` with `sameSite: 'none'`
     */
    secure?: boolean | 'auto' | undefined
    /** @default true */
    httpOnly?: boolean | undefined
    /** Seconds that it is kept after its last use, 1 to 34560000. @default none: until the browser ends */
    maxAge?: number | undefined
  }

  interface ListenOptions {
    /**
     * Which balancers this server takes connections of: those of the same name.
     *
     * @default 'default'
     * @since 4.0.0
     */
    name?: string | undefined
  }

  /** Who brings connections to their workers. */
  interface Steering {
    /** The kernel, or the primary process, which hands them over. */
    mode: 'kernel' | 'handover'
    /** Why, in words. */
    reason: string
  }

  /**
   * Why a worker takes no more connections. `'closed'`: it closed its server, was disconnected, or died, or the balancer
   * closed. `'fault'`: it said what makes no sense. `'broken'`: the system failed.
   */
  type EndReason = 'closed' | 'fault' | 'broken'

  /** A slot has a worker from now on, or has not. */
  interface SlotEvent {
    slot: number
    /** The worker's process. */
    pid: number
    up: boolean
    /** `'replaced'`: another worker has its slot. `'removed'`: the slot has no worker any more, or does not exist, as after `close()`. */
    reason: 'listening' | 'replaced' | 'removed' | EndReason
  }

  /** A worker can take connections from now on, or cannot any more, whether it has a slot or not. */
  interface WorkerEvent {
    /** The worker's process. */
    pid: number
    up: boolean
    reason: 'listening' | EndReason
  }

  /** Connections were refused since the last such event of the same slot and status; at most one a second. */
  interface RefuseEvent {
    /** The slot that they were for; `null` where there were no slots, or none was known. */
    slot: number | null
    /**
     * What they were answered. 502: no worker came in time. 503: more than `maxPending` wait, or they are new and the
     * balancer drains. `null`: this process had no file
     * descriptors left, so that they were closed.
     */
    status: 502 | 503 | null
    /** Why, in words, as of the event. */
    reason: string
    count: number
  }

  interface BalancerEvents {
    slot: [event: SlotEvent]
    worker: [event: WorkerEvent]
    refuse: [event: RefuseEvent]
    /** It serves from now on, in the place of the version before (the option `takeOver`). */
    takeover: []
    /** Another version serves from now on. What waits here is passed on, and `'close'` follows. */
    superseded: []
  }

  /**
   * How long connections waited until their worker took them, as a histogram. Where the kernel steers, workers look at one
   * connection in 64, and see how long ago its client sent something: what it sends while it waits makes that less, and the
   * system may count in steps of some milliseconds.
   */
  interface WaitTimes {
    /** The upper bounds of the buckets, in milliseconds. */
    bounds: number[]
    /** Connections in each bucket alone, not in those below; one more for those beyond the last bound. */
    counts: number[]
    /** Milliseconds in all. */
    sum: number
  }

  /** Counts from the balancer's first `listen` on; `waiting`, `slots`, `steering` and `uptime` are as of now. */
  interface BalancerStats {
    /** Connections that came in. */
    accepted: number
    /** Connections sent to a worker, or accepted by it from the kernel, each counted once. */
    delivered: number
    /** Connections that a worker took over. */
    adopted: number
    /** Times that a connection was sent again, its worker having died, closed or had no room. */
    redelivered: number
    /** Connections answered with 502 or 503, or closed for lack of file descriptors. */
    refused: number
    /** Connections closed for want of a valid PROXY header. */
    rejected: number
    /** Connections whose client left, or stopped sending, while they waited for a worker. */
    gone: number
    /** Connections whose client is not known yet. */
    identifying: number
    /** Connections not sent yet, whose client is known; where the kernel steers, those in its queues too. */
    waiting: number
    /** How long those adopted waited. */
    waits: WaitTimes
    slots: SlotStats[]
    /** As `balancer.steering`. */
    steering: Steering | null
    /** For how many seconds the balancer has listened; 0 if it does not. */
    uptime: number
  }

  interface SlotStats {
    /** The process that serves the slot; `null` when none does. */
    pid: number | null
    /**
     * Who brings connections to that process now: where the kernel steers, `'handover'` while nobody serves the slot, its
     * worker does not keep up or has no file descriptors left, or it runs as another user than the primary.
     */
    steering: 'kernel' | 'handover'
    /** Connections not sent yet; where the kernel steers, those in the slot's queue too. */
    waiting: number
    /** Connections sent, which the worker has not taken yet. */
    inFlight: number
    /** Connections that the slot's workers took over, since the latest `listen` and since the slot exists. */
    adopted: number
    /** The slot's part of all that those of the present slots took over, 0 to 1. */
    share: number
  }

  /**
   * A `net.Server` whose connections go to the workers without JavaScript of this process. So it emits no
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
    /** Who brings connections to their workers, and why; `null` while the balancer does not listen. */
    readonly steering: Steering | null
    /** The counters as they are. */
    stats(): BalancerStats
    /** Whether it refuses new clients. */
    readonly draining: boolean
    /**
     * From now on new clients are refused, with a 503: those whose first request shows no session, where they would have
     * gone where there is room (the option `affinity`). Who is known by address is served, as it may have been here before.
     *
     * @param draining `false`: they are taken again
     * @throws {TypeError} `ERR_INVALID_ARG_TYPE`: no boolean
     * @since 4.0.0
     */
    drain(draining?: boolean): void
    /**
     * Which slot a client has, and which process serves it; `null` when there are no slots.
     *
     * @param client its IP address; with `behindProxy` also what else the header names it by; with `affinity` also the
     * token of its session, or an id that ends in one
     * @throws {TypeError} `ERR_INVALID_ARG_TYPE`, `ERR_INVALID_ARG_VALUE`: no such thing
     * @since 4.0.0
     */
    slotOf(client: string): { slot: number; pid: number | null } | null

    addListener<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    addListener(event: string | symbol, listener: (...args: any[]) => void): this
    on<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    on(event: string | symbol, listener: (...args: any[]) => void): this
    once<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    once(event: string | symbol, listener: (...args: any[]) => void): this
    prependOnceListener<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    prependOnceListener(event: string | symbol, listener: (...args: any[]) => void): this
    prependListener<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    prependListener(event: string | symbol, listener: (...args: any[]) => void): this
    removeListener<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    removeListener(event: string | symbol, listener: (...args: any[]) => void): this
    off<E extends keyof BalancerEvents>(event: E, listener: (...args: BalancerEvents[E]) => void): this
    off(event: string | symbol, listener: (...args: any[]) => void): this
  }
}

export = sticky
