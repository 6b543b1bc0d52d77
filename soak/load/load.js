'use strict'

// Clients with good manners: each request has an id, and what becomes of it is written down.

const { createHash } = require('node:crypto')
const { now } = require('../clock')
const { wait } = require('../process')
const { clientsOf, identityOf } = require('./clients')
const { Connection } = require('./connection')

/**
 * What a client knows of one request.
 * @typedef {object} Exchange
 * @property {string} id
 * @property {string} client its address
 * @property {Way} way
 * @property {number} nth on its connection
 * @property {string} key the connection, as a worker sees it
 * @property {string} [shown] the token of its session
 * @property {number} began when it connected, or was kept open until then
 * @property {number} ended
 * @property {number} [status]
 * @property {number} [worker] the process that says it answered
 * @property {string} [token] what the worker calls its slot
 * @property {string} [error] in the place of an answer
 */

/** @typedef {keyof typeof WAYS} Way */

const WAYS = { plain: 10, drips: 2, late: 1, upload: 2, stream: 2, kept: 2 }

const PAUSE = [5, 250]
const DRIP_EVERY = [5, 60]
const UPLOAD = [1000, 200_000]
const KEPT_REQUESTS = 3

/** New sessions begin all the time. */
const FORGETS = 0.1

class Load {
  #configuration
  #random
  #port
  #clients
  /** @type {Map<string, string>} by client */
  #tokens = new Map()
  #over = false
  #last = 0
  /** @type {Set<Promise<void>>} */
  #asking = new Set()
  /** @type {Exchange[]} */
  exchanges = []
  /** Called with each token that a client is given. */
  onToken = (/** @type {string} */ _token) => {}

  /**
   * @param {import('../history').Configuration} configuration
   * @param {InstanceType<typeof import('../random').Random>} random
   * @param {number} port
   */
  constructor(configuration, random, port) {
    this.#configuration = configuration
    this.#random = random
    this.#port = port
    this.#clients = clientsOf(configuration)
    for (let n = 0; n < configuration.width; n++) this.#track(this.#repeat())
  }

  /** @param {Promise<void>} asking */
  #track(asking) {
    this.#asking.add(asking)
    asking.finally(() => this.#asking.delete(asking))
  }

  async #repeat() {
    while (!this.#over) {
      await this.#connect(this.#random.one(this.#clients), this.#random.weighted(WAYS))
      await wait(this.#random.integer(PAUSE[0], PAUSE[1]))
    }
  }

  /**
   * Many at once.
   * @param {number} count
   */
  burst(count) {
    for (let n = 0; n < count; n++) {
      this.#track(this.#connect(this.#random.one(this.#clients), this.#random.one(['plain', 'late', 'stream'])))
    }
  }

  /** Lets all that began come to its end. */
  async end() {
    this.#over = true
    while (this.#asking.size > 0) await Promise.all(this.#asking)
  }

  /** One request of each client, when all is quiet again. */
  async askAll() {
    for (const client of this.#clients) await this.#connect(client, 'plain')
  }

  /**
   * @param {string} client
   * @param {Way} way
   */
  async #connect(client, way) {
    const { affinity } = this.#configuration.options
    const token = affinity && !this.#random.chance(FORGETS) ? this.#tokens.get(client) : undefined
    // A session may come from anywhere.
    const from = token === undefined ? client : this.#random.one(this.#clients)
    const identity = identityOf(this.#configuration, from)
    const began = now()
    const connection = new Connection(this.#port, identity.localAddress)
    /** @type {Exchange} */
    const first = { id: '', client: from, way, nth: 0, key: '', shown: token, began, ended: 0 }
    if (await connection.connected()) {
      first.key = `${identity.peer}:${connection.localPort}`
      const requests = way === 'kept' ? KEPT_REQUESTS : 1
      for (let nth = 0; nth < requests; nth++) {
        const last = nth === requests - 1
        const exchange = { ...first, nth, began: nth === 0 ? began : now() }
        const goesOn = await this.#ask(connection, exchange, nth === 0 ? identity.preamble(connection.localPort) : '', {
          headers: [...identity.headers, ...(last ? ['Connection: close'] : [])],
        })
        if (exchange.token && nth === 0) this.#learn(client, exchange.token)
        if (last || !goesOn) break
        await wait(this.#random.integer(PAUSE[0], PAUSE[1]))
        if (!connection.isIdle) break
      }
    } else {
      this.#note(first, { error: connection.failure ?? 'no connection' })
    }
    connection.end()
  }

  /**
   * @param {string} client
   * @param {string} token
   */
  #learn(client, token) {
    this.#tokens.set(client, token)
    this.onToken(token)
  }

  /**
   * One request. Returns whether another may follow.
   * @param {InstanceType<typeof Connection>} connection
   * @param {Exchange} exchange
   * @param {string} preamble
   * @param {{ headers: string[] }} options
   */
  async #ask(connection, exchange, preamble, { headers }) {
    const { way, shown } = exchange
    exchange.id = `c${++this.#last}`
    const { affinity } = this.#configuration.options
    const query = affinity?.query && shown ? `?${affinity.query}=id.${shown}` : ''
    const body = way === 'upload' ? Buffer.alloc(this.#random.integer(UPLOAD[0], UPLOAD[1]), exchange.id) : undefined
    const head = [
      `${body ? 'POST' : 'GET'} /${exchange.id}${way === 'stream' ? '/stream' : ''}${query} HTTP/1.1`,
      'Host: soak',
      ...headers,
      ...(affinity?.cookie && shown ? [`Cookie: ${affinity.cookie}=${shown}`] : []),
      ...(body ? [`Content-Length: ${body.length}`] : []),
    ]
    const text = `${preamble}${head.join('\r\n')}\r\n\r\n`
    if (way === 'late') await wait(this.#random.integer(50, 800))
    if (way === 'drips') await this.#drip(connection, text)
    else connection.say(text)
    if (body) connection.say(body)
    const outcome = await connection.answer()
    this.#note(exchange, outcome, body)
    return 'status' in outcome && !outcome.closes
  }

  /**
   * @param {InstanceType<typeof Connection>} connection
   * @param {string} text
   */
  async #drip(connection, text) {
    for (let from = 0; from < text.length; ) {
      const to = from + this.#random.integer(1, 20)
      connection.say(text.slice(from, to))
      from = to
      await wait(this.#random.integer(DRIP_EVERY[0], DRIP_EVERY[1]))
    }
  }

  /**
   * @param {Exchange} exchange
   * @param {import('./connection').Outcome} outcome
   * @param {Buffer} [sent]
   */
  #note(exchange, outcome, sent = Buffer.alloc(0)) {
    exchange.ended = now()
    this.exchanges.push(exchange)
    if ('error' in outcome) {
      exchange.error = outcome.error
      return
    }
    exchange.status = outcome.status
    if (outcome.status !== 200) return
    const { id, pid, token, bytes, hash } = parsed(outcome.body)
    exchange.worker = pid
    exchange.token = token
    const whole = bytes === sent.length && hash === createHash('sha1').update(sent).digest('hex')
    if (id !== exchange.id || !whole) exchange.error = `answered with ${outcome.body}, having sent ${sent.length} bytes`
    else if (this.#configuration.options.affinity?.cookie) this.#checkCookie(exchange, outcome.cookie)
  }

  /**
   * A response brings the cookie if the request showed no session. It may if it showed one: where its slot is gone, or where
   * the worker has not heard yet how many slots there are.
   * @param {Exchange} exchange
   * @param {string | undefined} cookie
   */
  #checkCookie(exchange, cookie) {
    const set = cookie?.split(/[=;]/)[1]
    const { shown, token } = exchange
    const right = shown === undefined ? set === token : set === undefined || set === token
    if (!right) exchange.error = `the cookie is ${cookie}, showing ${shown} to ${token}`
  }
}

/**
 * @param {string} body
 * @returns {any}
 */
function parsed(body) {
  try {
    return JSON.parse(body)
  } catch {
    return {}
  }
}

module.exports = { Load }
