'use strict'

// Whole processes as fixtures. A fixture is started with fork() and answers calls over IPC (see
// rpc.js); it is killed, with all processes below it, when its test ends.

const { fork } = require('node:child_process')
const { EventEmitter, once } = require('node:events')
const fs = require('node:fs')
const path = require('node:path')

const { loopback, parallel, request, until } = require('./client')

const FIXTURES = path.join(__dirname, '..', 'fixtures')

class Fixture extends EventEmitter {
  #calls = new Map()
  #lastCall = 0
  #backlog = []
  stderr = ''
  stdout = ''

  constructor(child) {
    super()
    this.child = child
    this.pid = child.pid
    child.on('message', (message) => this.#onMessage(message))
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      this.stdout += text
    })
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      this.stderr += text
    })
    this.exited = once(child, 'exit').then(([code, signal]) => {
      for (const { reject } of this.#calls.values()) {
        reject(new Error(`fixture ended (${code ?? signal}): ${this.stderr}`))
      }
      return { code, signal }
    })
  }

  /** Calls a method that the fixture serves, and returns what it returns. */
  call(method, ...args) {
    const id = ++this.#lastCall
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject })
      this.child.send({ rpc: id, method, args }, (error) => error && reject(error))
    })
  }

  /** The next event of that name which the fixture emits, or has emitted and nobody asked for yet. */
  async next(name) {
    const at = this.#backlog.findIndex(([event]) => event === name)
    if (at >= 0) return this.#backlog.splice(at, 1)[0][1]
    const [value] = await once(this, `event:${name}`)
    return value
  }

  #onMessage(message) {
    if (message.event) {
      const name = `event:${message.event}`
      if (!this.emit(name, message.value)) this.#backlog.push([message.event, message.value])
    } else if (message.rpc) {
      const { resolve, reject } = this.#calls.get(message.rpc)
      this.#calls.delete(message.rpc)
      if (message.error) reject(Object.assign(new Error(message.error.message), message.error))
      else resolve(message.value)
    }
  }

  /** Kills the fixture and all below it, and waits until it is gone. */
  async kill() {
    for (const pid of [...descendants(this.pid), this.pid]) signal(pid, 'SIGKILL')
    await this.exited
  }
}

/** The processes below one, by /proc, children first. */
function descendants(pid) {
  const parents = new Map()
  for (const entry of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      const stat = fs.readFileSync(`/proc/${entry}/stat`, 'utf8')
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]))
    } catch {
      // Gone meanwhile.
    }
  }
  const below = (parent) => [...parents].filter(([, p]) => p === parent).flatMap(([child]) => [...below(child), child])
  return below(pid)
}

function signal(pid, name) {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

/**
 * Starts a fixture.
 * @param {import('node:test').TestContext} t
 * @param {string} file in __test__/fixtures
 * @param {{ args?: unknown[], env?: object, execPath?: string, execArgv?: string[] }} [options] `args`
 *   are passed as JSON
 * @returns {Fixture}
 */
function start(t, file, { args = [], env, execPath = process.execPath, execArgv = [] } = {}) {
  const child = fork(
    path.join(FIXTURES, file),
    args.map((arg) => JSON.stringify(arg)),
    {
      env: { ...process.env, ...env },
      execPath,
      execArgv,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    },
  )
  const fixture = new Fixture(child)
  t.after(() => fixture.kill())
  return fixture
}

// A respawned process may take seconds on a busy machine; most tests are not about patience.
const PATIENT = { maxRetries: 400, retryDelay: 150 }

/**
 * A primary (fixtures/primary.js) that listens, with all its slots served.
 * @param {import('node:test').TestContext} t
 * @param {{ workers?: number, options?: object, env?: object } & Record<string, unknown>} [args]
 */
async function balanced(t, { workers = 2, options = PATIENT, env, ...rest } = {}) {
  const primary = start(t, 'primary.js', { args: [{ workers, options, ...rest }], env })
  const { port } = await primary.call('listen')
  await until(async () => {
    const { slots } = await primary.call('stats')
    return slots.length === workers && slots.every(({ pid }) => pid)
  })
  return { primary, port }
}

/**
 * For each of the first clients, the worker that serves it.
 * @param {number} port
 * @param {number} clients
 * @returns {Promise<number[]>}
 */
async function workersOf(port, clients) {
  const workers = []
  await parallel(clients, 8, async (n) => {
    workers[n] = Number((await request(port, { localAddress: loopback(n) })).body)
  })
  return workers
}

/** How many descriptors a process has open. */
function fdCount(pid) {
  return fs.readdirSync(`/proc/${pid}/fd`).length
}

// Looks, 5 ms apart, in which a number must stay the same to be settled.
const SETTLED = 5

/**
 * How many descriptors a process has open when nothing happens to it: the primary closes its copies of connections
 * some milliseconds after workers have taken them.
 */
async function settledFdCount(pid) {
  let last
  let same = 0
  await until(() => {
    const now = fdCount(pid)
    same = now === last ? same + 1 : 0
    last = now
    return same === SETTLED
  })
  return last
}

module.exports = {
  FIXTURES,
  Fixture,
  PATIENT,
  balanced,
  descendants,
  fdCount,
  settledFdCount,
  signal,
  start,
  workersOf,
}
