'use strict'

// What it mends, and what it breaks, to send clients of an overfull slot to the next slot by hash: a simulation of
// clients, their sessions and connections, without sockets. docs/performance.md says what follows from it.
//
//   node bench/bounded-load.js [--clients N] [--keys N] [--poll SECONDS]

const { parseArgs } = require('node:util')
const { number, table } = require('./lib/report')

const SLOTS = [2, 4, 8]
const EPSILONS = [0.1, 0.25, 0.5, 1]

// In seconds. All clients come at once, as after a deployment, and are measured from some minutes later on.
const SESSION = 600
const MEASURED_FROM = 600
const END = 1800
// An office opens, and some time later all of its clients are there.
const OPENS = 660
const OPEN = 780

const ADDRESSES = 20_000
const OFFICE = 0

/**
 * Who comes, and what a session does: it is connected for a while, then it is not, each of a random length.
 * @typedef {object} Scenario
 * @property {string} title
 * @property {(n: number) => number} weight of the n-th address
 * @property {number} office the share of the clients that is behind one more address
 * @property {boolean} opens whether the office comes later than the others
 * @property {number} connected seconds, on average
 * @property {number} pause seconds, on average
 */

/**
 * How a slot is chosen: by the address's hash alone; for each connection by hash and load; the same for each new
 * address, whose slot a table then remembers; or once for each session by load, which therefore never breaks.
 * @typedef {object} Way
 * @property {string} title
 * @property {'hash' | 'connection' | 'address' | 'session'} unit
 * @property {number} epsilon
 * @property {number} remembered seconds after an address's last connection
 */

/**
 * @typedef {object} Figures
 * @property {number} mean of the fullest slot's load as a multiple of the average
 * @property {number} peak
 * @property {number} broken share of the ended sessions of which a connection reached another slot than the one before
 * @property {number} misrouted share of the connections that did so
 * @property {number} entries in the table, at most
 * @property {number} elsewhere the share of them that is in another slot than by hash, in the end
 */

// ---- Chance ----

/** 32 bits, mixed. @param {number} value */
function mix(value) {
  let mixed = Math.imul(value ^ (value >>> 15), value | 1)
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
  return (mixed ^ (mixed >>> 14)) >>> 0
}

/** Numbers from 0 to below 1, the same for the same seed (mulberry32). @param {number} seed */
function random(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    return mix(state) / 2 ** 32
  }
}

/**
 * Addresses at random, by their weight.
 * @param {(n: number) => number} weight
 * @param {() => number} uniform
 */
function picker(weight, uniform) {
  let sum = 0
  const sums = Float64Array.from({ length: ADDRESSES }, (_, n) => {
    if (n !== OFFICE) sum += weight(n)
    return sum
  })
  return () => {
    const wanted = uniform() * sum
    let [low, high] = [0, ADDRESSES - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if (sums[middle] > wanted) high = middle
      else low = middle + 1
    }
    return low
  }
}

/**
 * For each address all slots, by a hash of both: the first is what a plain hash gives, then comes the next by hash.
 * @param {number} slots
 * @param {number} key
 */
function slotsByHash(slots, key) {
  const orders = new Uint8Array(ADDRESSES * slots)
  for (let address = 0; address < ADDRESSES; address++) {
    const hashes = Array.from({ length: slots }, (_, slot) => mix(mix(mix(key) ^ address) + slot * 0x9e3779b1))
    const order = hashes.map((_, slot) => slot).sort((a, b) => hashes[a] - hashes[b])
    orders.set(order, address * slots)
  }
  return orders
}

// ---- Slots ----

/** One way of choosing slots: what is open in each, and what became of the sessions. */
class Balancer {
  #unit
  #epsilon
  #remembered
  #slots
  #orders
  #uniform
  #load
  #open = 0
  /** By client: the slot of the session's last connection, and whether it ever was another. */
  #home
  #broken
  /** The table: by address its slot, how many connections it has, and when the last one ended. */
  #entrySlot = new Int8Array(ADDRESSES).fill(-1)
  #entryOpen = new Int32Array(ADDRESSES)
  #entryEnded = new Float64Array(ADDRESSES)
  #count = {
    samples: 0,
    imbalance: 0,
    peak: 0,
    sessions: 0,
    broken: 0,
    connections: 0,
    misrouted: 0,
    entries: 0,
    elsewhere: 0,
  }

  /**
   * @param {Way} way
   * @param {number} slots
   * @param {Uint8Array} orders
   * @param {number} capacity more than there will be clients
   */
  constructor({ unit, epsilon, remembered }, slots, orders, capacity) {
    this.#unit = unit
    this.#epsilon = epsilon
    this.#remembered = remembered
    this.#slots = slots
    this.#orders = orders
    this.#uniform = random(slots)
    this.#load = new Int32Array(slots)
    this.#home = new Int8Array(capacity)
    this.#broken = new Uint8Array(capacity)
  }

  /**
   * The first connection of a session.
   * @param {number} client
   * @param {number} address
   * @param {number} now
   */
  begin(client, address, now) {
    this.#home[client] = this.#opened(address, -1, now)
    this.#broken[client] = 0
    if (now >= MEASURED_FROM) this.#count.connections++
  }

  /**
   * The next one. In another slot the session begins anew.
   * @param {number} client
   * @param {number} address
   * @param {number} now
   */
  connect(client, address, now) {
    const home = this.#home[client]
    const slot = this.#opened(address, home, now)
    if (now >= MEASURED_FROM) this.#count.connections++
    if (slot === home) return
    this.#home[client] = slot
    this.#broken[client] = 1
    if (now >= MEASURED_FROM) this.#count.misrouted++
  }

  /**
   * @param {number} client
   * @param {number} address
   * @param {number} now
   */
  disconnect(client, address, now) {
    this.#load[this.#home[client]]--
    this.#open--
    if (this.#unit !== 'address') return
    this.#entryOpen[address]--
    this.#entryEnded[address] = now
  }

  /**
   * The end of a session.
   * @param {number} client
   */
  end(client) {
    this.#count.sessions++
    this.#count.broken += this.#broken[client]
  }

  /** @param {number} now */
  sample(now) {
    const imbalance = (Math.max(...this.#load) * this.#slots) / this.#open
    this.#count.samples++
    this.#count.imbalance += imbalance
    this.#count.peak = Math.max(this.#count.peak, imbalance)
    if (this.#unit !== 'address' || this.#count.samples % 60 !== 0) return
    let [entries, elsewhere] = [0, 0]
    for (let address = 0; address < ADDRESSES; address++) {
      if (!this.#knows(address, now)) continue
      entries++
      if (this.#entrySlot[address] !== this.#orders[address * this.#slots]) elsewhere++
    }
    this.#count.entries = Math.max(this.#count.entries, entries)
    this.#count.elsewhere = elsewhere / entries
  }

  /** @returns {Figures} */
  figures() {
    const { samples, imbalance, sessions, broken, connections, misrouted, ...others } = this.#count
    return { mean: imbalance / samples, broken: broken / sessions, misrouted: misrouted / connections, ...others }
  }

  /**
   * @param {number} address
   * @param {number} home the session's slot, or -1 if it begins
   * @param {number} now
   */
  #opened(address, home, now) {
    const slot = this.#choose(address, home, now)
    this.#load[slot]++
    this.#open++
    if (this.#unit !== 'address') return slot
    this.#entrySlot[address] = slot
    this.#entryOpen[address]++
    return slot
  }

  /**
   * @param {number} address
   * @param {number} home
   * @param {number} now
   */
  #choose(address, home, now) {
    if (this.#unit === 'hash') return this.#orders[address * this.#slots]
    if (this.#unit === 'connection') return this.#firstWithRoom(address)
    if (this.#unit === 'address')
      return this.#knows(address, now) ? this.#entrySlot[address] : this.#firstWithRoom(address)
    return home >= 0 ? home : this.#lessLoadedOfTwo()
  }

  /**
   * The first slot by hash that has less than (1 + ε) times the average, with the new connection in it and rounded up.
   * @param {number} address
   */
  #firstWithRoom(address) {
    const bound = Math.ceil(((1 + this.#epsilon) * (this.#open + 1)) / this.#slots)
    let place = address * this.#slots
    while (this.#load[this.#orders[place]] >= bound) place++
    return this.#orders[place]
  }

  #lessLoadedOfTwo() {
    const one = Math.floor(this.#uniform() * this.#slots)
    const other = (one + 1 + Math.floor(this.#uniform() * (this.#slots - 1))) % this.#slots
    return this.#load[one] <= this.#load[other] ? one : other
  }

  /**
   * @param {number} address
   * @param {number} now
   */
  #knows(address, now) {
    if (this.#entrySlot[address] < 0) return false
    return this.#entryOpen[address] > 0 || now - this.#entryEnded[address] <= this.#remembered
  }
}

// ---- Clients ----

/** Some clients, of which one can be taken at random. */
class Crowd {
  #members
  #places
  size = 0

  /** @param {number} capacity */
  constructor(capacity) {
    this.#members = new Int32Array(capacity)
    this.#places = new Int32Array(capacity).fill(-1)
  }

  /** @param {number} client */
  add(client) {
    this.#places[client] = this.size
    this.#members[this.size++] = client
  }

  /** @param {number} client */
  delete(client) {
    const last = this.#members[--this.size]
    this.#members[this.#places[client]] = last
    this.#places[last] = this.#places[client]
    this.#places[client] = -1
  }

  /** @param {number} client */
  has(client) {
    return this.#places[client] >= 0
  }

  /** @param {number} chance from 0 to below 1 */
  at(chance) {
    return this.#members[Math.floor(chance * this.size)]
  }
}

/**
 * The same clients for all balancers. Every length of time is exponential, so what happens next is one of a few things,
 * each at a rate of its own, and to any of the clients.
 * @param {Scenario} scenario
 * @param {Balancer[]} balancers
 * @param {number} clients how many there are on average
 * @param {number} capacity
 */
function simulate(scenario, balancers, clients, capacity) {
  const uniform = random(1)
  const pick = picker(scenario.weight, uniform)
  const address = new Int32Array(capacity)
  const free = Array.from({ length: capacity }, (_, n) => capacity - 1 - n)
  const [present, connected, pausing] = [new Crowd(capacity), new Crowd(capacity), new Crowd(capacity)]
  let now = 0

  function arrive(/** @type {number} */ from) {
    const client = free.pop()
    if (client === undefined) throw new Error('more clients than there is room for')
    address[client] = from
    present.add(client)
    connected.add(client)
    for (const balancer of balancers) balancer.begin(client, from, now)
  }

  function connect(/** @type {number} */ client) {
    pausing.delete(client)
    connected.add(client)
    for (const balancer of balancers) balancer.connect(client, address[client], now)
  }

  function disconnect(/** @type {number} */ client) {
    connected.delete(client)
    pausing.add(client)
    for (const balancer of balancers) balancer.disconnect(client, address[client], now)
  }

  function leave(/** @type {number} */ client) {
    if (connected.has(client)) disconnect(client)
    pausing.delete(client)
    present.delete(client)
    free.push(client)
    if (now >= MEASURED_FROM) for (const balancer of balancers) balancer.end(client)
  }

  const inOffice = clients * scenario.office
  const elsewhere = clients - inOffice
  function officeRate() {
    if (!scenario.opens || now > OPEN) return inOffice / SESSION
    return now < OPENS ? 0 : inOffice / (OPEN - OPENS)
  }

  for (let n = 0; n < (scenario.opens ? elsewhere : clients); n++) {
    arrive(!scenario.opens && uniform() < scenario.office ? OFFICE : pick())
  }
  for (let nextSample = MEASURED_FROM; ; ) {
    const closing = connected.size / scenario.connected
    const opening = pausing.size / scenario.pause
    const leaving = present.size / SESSION
    const office = officeRate()
    const rate = closing + opening + leaving + office + elsewhere / SESSION
    now -= Math.log(1 - uniform()) / rate
    for (; nextSample < Math.min(now, END); nextSample++) for (const balancer of balancers) balancer.sample(nextSample)
    if (now >= END) return
    const event = uniform() * rate
    if (event < closing) disconnect(connected.at(uniform()))
    else if (event < closing + opening) connect(pausing.at(uniform()))
    else if (event < closing + opening + leaving) leave(present.at(uniform()))
    else arrive(event < closing + opening + leaving + office ? OFFICE : pick())
  }
}

// ---- What is compared ----

/**
 * @param {number} poll
 * @returns {Scenario[]}
 */
function scenarios(poll) {
  const alike = () => 1
  // The pause is a round trip.
  const polling = { weight: alike, office: 0, opens: false, connected: poll, pause: 0.05 }
  return [
    { ...polling, title: 'Flat: all addresses alike' },
    { ...polling, title: 'Zipf: the n-th address has a share in proportion to 1/n', weight: (n) => 1 / n },
    { ...polling, title: 'Office: one address has a fifth of the clients, all others are alike', office: 0.2 },
    { ...polling, title: 'Office that opens: the same, but it comes after the others', office: 0.2, opens: true },
    {
      ...polling,
      title: 'Pages: an office, and clients that are connected for 5 s, then not for 60 s',
      office: 0.2,
      connected: 5,
      pause: 60,
    },
  ]
}

/** @type {Way[]} */
const WAYS = [
  { title: 'plain hash', unit: 'hash', epsilon: 0, remembered: 0 },
  ...EPSILONS.map(
    (epsilon) =>
      /** @type {Way} */ ({ title: `each connection, ε = ${epsilon}`, unit: 'connection', epsilon, remembered: 0 }),
  ),
  ...EPSILONS.map(
    (epsilon) =>
      /** @type {Way} */ ({ title: `new addresses, ε = ${epsilon}`, unit: 'address', epsilon, remembered: 60 }),
  ),
  { title: 'new addresses, ε = 0.25, remembered for 10 min', unit: 'address', epsilon: 0.25, remembered: 600 },
  { title: 'sessions', unit: 'session', epsilon: 0, remembered: 0 },
]

/** @param {number} share */
function percent(share) {
  if (share === 0) return '0'
  return share < 0.0005 ? '< 0.1 %' : `${number(100 * share, share < 0.0995 ? 1 : 0)} %`
}

/**
 * Of balancers with different keys, the mean; of peaks and entries the highest.
 * @param {Balancer[]} balancers
 */
function joined(balancers) {
  const runs = balancers.map((balancer) => balancer.figures())
  const values = (/** @type {keyof Figures} */ figure) => runs.map((run) => run[figure])
  const mean = (/** @type {keyof Figures} */ figure) =>
    values(figure).reduce((sum, value) => sum + value, 0) / runs.length
  return {
    load: `${number(mean('mean'), 2)} (${number(Math.max(...values('peak')), 2)})`,
    broken: `${percent(mean('broken'))} (${percent(mean('misrouted'))})`,
    entries: Math.max(...values('entries')),
    elsewhere: percent(mean('elsewhere')),
  }
}

function main() {
  const { values } = parseArgs({
    options: {
      clients: { type: 'string', default: '5000' },
      keys: { type: 'string', default: '3' },
      poll: { type: 'string', default: '5' },
    },
  })
  const clients = Number(values.clients)
  const capacity = 2 * clients
  const keys = Array.from({ length: Number(values.keys) }, (_, n) => n + 1)
  const orders = SLOTS.map((slots) => keys.map((key) => slotsByHash(slots, key)))
  const head = [
    '',
    ...SLOTS.map((slots) => `${slots} slots: load, mean (peak)`),
    ...SLOTS.map((slots) => `${slots} slots: sessions broken (requests misrouted)`),
    'entries at most',
    'entries elsewhere than by hash',
  ]
  for (const scenario of scenarios(Number(values.poll))) {
    const balancers = WAYS.map((way) =>
      SLOTS.map((slots, n) => orders[n].map((order) => new Balancer(way, slots, order, capacity))),
    )
    simulate(scenario, balancers.flat(2), clients, capacity)
    const rows = WAYS.map(({ title }, n) => {
      const figures = balancers[n].map(joined)
      return [
        title,
        ...figures.map(({ load }) => load),
        ...figures.map(({ broken }) => broken),
        number(Math.max(...figures.map(({ entries }) => entries))),
        figures.map(({ elsewhere }) => elsewhere).join(', '),
      ]
    })
    console.log(`### ${scenario.title}\n\n${table(head, rows)}\n`)
  }
}

main()
