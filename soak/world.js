'use strict'

// Lives a history: starts a primary, lets clients ask, does each step at its time, brings everything to rest, and hands over
// what was written down.

const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { now } = require('./clock')
const { holdings } = require('./descriptors')
const { clientsOf } = require('./load/clients')
const { Load } = require('./load/load')
const { readLog } = require('./log')
const { Primary, descendants, signal, wait } = require('./process')
const { Random } = require('./random')
const { STEPS } = require('./steps')

/**
 * @typedef {import('./history').History} History
 * @typedef {import('./history').Step} Step
 * @typedef {import('./oracle/judge').Evidence} Evidence
 * @typedef {import('./oracle/judge').Fault} Fault
 */

// What takes longer never comes: an upgrade, rest, an end. Machines that run this are busy.
const NEVER = 60_000

// For so long a successor waits for its predecessor to say something.
const TAKE_OVER_TIME = 5000

// How often is looked at what no event tells.
const LOOK_EVERY = 50

class World {
  #history
  #folder
  #log
  #takeOver
  /** @type {string[]} */
  #clients
  /** @type {Set<number>} processes that are stopped now */
  #stopped = new Set()
  /** @type {Set<InstanceType<typeof Primary>>} that are expected to end */
  #ending = new Set()
  /** @type {Set<InstanceType<typeof Primary>>} that are killed */
  #killed = new Set()
  /** @type {InstanceType<typeof Primary>[]} */
  #primaries = []
  /** Upgrades come one after the other. */
  #upgrading = Promise.resolve()
  /** @type {InstanceType<typeof Primary> | undefined} */
  #next
  /** What a primary has open when nothing goes on, without what it has for its workers. */
  #base = { connections: 0, unix: 0, memory: 0, others: 0 }
  /** @type {Fault[]} */
  faults = []
  /** @type {{ at: number, text: string }[]} */
  troubles = []
  /** @type {Map<string, number>} */
  tokens = new Map()
  began = 0
  port = 0
  /** @type {InstanceType<typeof Primary>} */
  primary
  /** @type {InstanceType<typeof Load>} */
  load

  /** @param {History} history */
  constructor(history) {
    this.#history = history
    this.random = new Random(history.seed ^ 0x50a4)
    this.#folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-soak-'))
    this.#log = path.join(this.#folder, 'log')
    this.#takeOver = path.join(this.#folder, 'balancer.sock')
    this.#clients = clientsOf(history.configuration)
    process.once('exit', this.#clean)
    this.primary = this.#start(history.configuration.slots)
    this.load = /** @type {any} */ (undefined)
  }

  #clean = () => {
    for (const pid of this.#stopped) signal(pid, 'SIGCONT')
    fs.rmSync(this.#folder, { recursive: true, force: true })
  }

  /**
   * @param {number} slots
   * @returns {InstanceType<typeof Primary>}
   */
  #start(slots) {
    const configuration = { ...this.#history.configuration, slots }
    const primary = new Primary({ configuration, takeOver: this.#takeOver, clients: this.#clients }, this.#log)
    this.#primaries.push(primary)
    primary.exited.then(({ code, signal }) => {
      if (this.#killed.has(primary) || (this.#ending.has(primary) && code === 0)) return
      this.#trouble(`the primary ${primary.pid} ended (${signal ?? code})`)
    })
    return primary
  }

  /** @param {string} text */
  #trouble(text) {
    this.troubles.push({ at: now(), text })
  }

  /** @returns {Promise<Evidence>} */
  async live() {
    const { configuration, ms, steps } = this.#history
    this.port = await this.primary.call('listen', 0)
    await this.#served(configuration.slots)
    this.#base = this.#holdings()
    const { mode } = await this.primary.call('steering')
    this.began = now()
    this.load = new Load(configuration, this.random.fork(), this.port)
    this.load.onToken = (/** @type {string} */ token) => void this.#learn(token)
    const done = steps.map((step) => this.#step(step))
    await wait(ms)
    await Promise.all(done)
    await this.#rest()
    await this.#end()
    const entries = readLog(this.#log)
    const said = fs.readFileSync(`${this.#log}.stderr`, 'utf8')
    const { exchanges } = this.load
    const { faults, troubles, tokens } = this
    process.off('exit', this.#clean)
    this.#clean()
    const kernel = mode === 'kernel'
    return { configuration, kernel, clients: this.#clients, exchanges, entries, faults, tokens, troubles, said }
  }

  /** @param {Step} step */
  async #step(step) {
    await wait(step.at)
    try {
      await STEPS[step.kind](this, /** @type {any} */ (step))
    } catch (error) {
      this.#trouble(`${step.kind}: ${/** @type {Error} */ (error).stack}`)
    }
  }

  // From here on: what the steps use.

  /**
   * One of the workers that serve, or are about to.
   * @param {number} pick
   */
  worker(pick) {
    const pids = [...this.primary.table, ...(this.#next?.table ?? [])].filter((pid) => pid !== null)
    return pids[pick % pids.length]
  }

  /** @param {number} pid */
  kill(pid) {
    this.faults.push({ kind: 'kill', pid, from: now(), to: now() })
    signal(pid, 'SIGKILL')
  }

  /**
   * @param {number} pid
   * @param {number} ms
   */
  async stop(pid, ms) {
    if (this.#stopped.has(pid) || !signal(pid, 'SIGSTOP')) return
    this.#stopped.add(pid)
    await wait(ms)
    this.#stopped.delete(pid)
    signal(pid, 'SIGCONT')
  }

  /**
   * @param {Omit<Fault, 'from' | 'to'>} fault
   * @param {() => Promise<unknown>} work
   */
  async during(fault, work) {
    const open = { ...fault, from: now(), to: Infinity }
    this.faults.push(open)
    await work()
    open.to = now()
  }

  /**
   * Asks the primary for something, which may be closing.
   * @param {string} method
   * @param {...any} args
   */
  async ask(method, ...args) {
    const { primary } = this
    try {
      await primary.call(method, ...args)
    } catch (error) {
      if (!this.#ending.has(primary)) throw error
    }
  }

  /**
   * Another version takes over, with so many slots.
   * @param {number} slots
   */
  upgrade(slots) {
    return this.#inTurn(async () => {
      const before = this.primary
      const next = this.#start(slots)
      this.#next = next
      this.#ending.add(before)
      if (!(await this.#listen(next, before))) return
      if (await within(NEVER, before.closed)) this.primary = next
      else this.#trouble(`${next.pid} has not taken over from ${before.pid}`)
    })
  }

  /**
   * Another version comes and crashes before it is ready.
   * @param {number} ms
   */
  abortUpgrade(ms) {
    return this.#inTurn(async () => {
      const next = this.#start(0)
      next.call('listen', this.port).catch(() => {})
      await wait(ms)
      this.#kill(next)
      await next.exited
    })
  }

  /**
   * The primary is killed when another one stands by that has no workers yet.
   * @param {number} slots
   */
  orphan(slots) {
    return this.#inTurn(async () => {
      const before = this.primary
      const next = this.#start(0)
      this.#next = next
      if (!(await this.#listen(next, before))) return
      this.#ending.add(before)
      await this.during({ kind: 'orphan', pid: before.pid }, async () => {
        this.#killed.add(before)
        signal(before.pid, 'SIGKILL')
        await before.exited
        this.primary = next
        await next.call('resize', slots)
        await this.#served()
      })
    })
  }

  /**
   * Lets the next primary listen, in the place of another. Returns whether it does.
   * @param {InstanceType<typeof Primary>} next
   * @param {InstanceType<typeof Primary>} before
   */
  async #listen(next, before) {
    try {
      await next.call('listen', this.port)
      return true
    } catch (error) {
      // Its predecessor had no descriptors to tell it anything.
      const excused = this.faults.some(({ kind, pid, to }) => {
        return kind === 'primary-descriptors' && pid === before.pid && to + TAKE_OVER_TIME > now()
      })
      this.#ending.delete(before)
      this.#kill(next)
      if (!excused) throw error
      return false
    }
  }

  /**
   * With all that it started.
   * @param {InstanceType<typeof Primary>} primary
   */
  #kill(primary) {
    this.#killed.add(primary)
    primary.kill()
  }

  /** @param {() => Promise<void>} upgrade */
  #inTurn(upgrade) {
    const turn = this.#upgrading.then(upgrade).finally(() => {
      this.#next = undefined
    })
    this.#upgrading = turn.catch(() => {})
    return turn
  }

  /**
   * The slot that a token names is known only to primaries.
   * @param {string} token
   */
  async #learn(token) {
    if (this.tokens.has(token)) return
    const slot = await this.primary.call('slotOf', token).catch(() => null)
    if (slot !== null) this.tokens.set(token, slot)
  }

  // From here on: how it ends.

  /**
   * Until each slot has a worker.
   * @param {number} [least] how many slots there are at the least: of node:cluster's workers each brings its own
   */
  async #served(least = 1) {
    const served = async () => {
      const { slots } = await this.primary.call('stats')
      return slots.length >= least && slots.every((/** @type {any} */ { pid }) => pid)
    }
    if (!(await until(served))) this.#trouble('not all slots are served')
  }

  /** All clients are done, everything is as it should be, and each client is answered. */
  async #rest() {
    await this.load.end()
    await this.#served()
    await this.load.askAll()
    /** @type {any} */
    let stats
    const settled = async () => {
      stats = await this.primary.call('stats')
      const inFlight = stats.slots.some((/** @type {any} */ slot) => slot.inFlight > 0)
      return stats.waiting === 0 && stats.identifying === 0 && !inFlight
    }
    if (!(await until(settled))) this.#trouble(`connections wait though all is over: ${JSON.stringify(stats)}`)
    /** @type {string | undefined} */
    let left
    const released = async () => {
      left = this.#left()
      return left === undefined
    }
    if (!(await until(released))) this.#trouble(`descriptors are left behind: ${left}`)
  }

  #holdings() {
    const { connections, unix, memory, others } = holdings(this.primary.pid)
    const workers = descendants(this.primary.pid).length
    // For each the channel and Node's own, a page where one is shared, and what Node watches it by.
    return {
      connections,
      unix: unix - 2 * workers,
      memory: memory === 0 ? 0 : memory - workers,
      others: others - workers,
    }
  }

  /** What is open that should not be, if anything. */
  #left() {
    const now = this.#holdings()
    const kinds = /** @type {(keyof typeof now)[]} */ (Object.keys(now))
    const more = kinds.filter((kind) => now[kind] > this.#base[kind])
    if (more.length > 0) return `the primary has ${JSON.stringify(now)}, and had ${JSON.stringify(this.#base)}`
    for (const pid of descendants(this.primary.pid)) {
      const { connections } = holdings(pid)
      if (connections > 0) return `worker ${pid} has ${connections} connections`
    }
  }

  async #end() {
    const { primary } = this
    for (const one of this.#primaries) this.#ending.add(one)
    primary.call('close').catch(() => {})
    if (!(await within(NEVER, primary.closed))) this.#trouble('close() does not end')
    for (const one of this.#primaries) {
      if (await within(NEVER, one.exited)) continue
      this.#trouble(`the primary ${one.pid} does not exit`)
      this.#kill(one)
      await one.exited
    }
  }
}

/**
 * Whether that comes in time.
 * @param {number} ms
 * @param {Promise<unknown>} awaited
 * @returns {Promise<boolean>}
 */
async function within(ms, awaited) {
  /** @type {NodeJS.Timeout | undefined} */
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms, false)
  })
  const came = await Promise.race([awaited.then(() => true), late])
  clearTimeout(timer)
  return Boolean(came)
}

/**
 * Whether that becomes so in time.
 * @param {() => Promise<boolean>} condition
 */
async function until(condition) {
  for (const by = now() + NEVER; now() < by; await wait(LOOK_EVERY)) {
    if (await condition().catch(() => false)) return true
  }
  return false
}

module.exports = { World }
