'use strict'

// A primary under the soak's control.

const { execFile, fork } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const path = require('node:path')
const { promisify } = require('node:util')

const PROGRAM = path.join(__dirname, 'program', 'primary.js')

/** @type {Set<Primary>} those that run, which end with this process */
const running = new Set()

class Primary {
  /** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void }>} */
  #calls = new Map()
  #lastCall = 0
  /** @type {(number | null)[]} the processes of its slots, as it told last */
  table = []
  isClosed = false
  #onClosed = () => {}
  /** @type {Promise<void>} when its balancer has closed */
  closed = new Promise((resolve) => {
    this.#onClosed = () => {
      this.isClosed = true
      resolve()
    }
  })

  /**
   * @param {object} argument
   * @param {string} log
   */
  constructor(argument, log) {
    const errors = fs.openSync(`${log}.stderr`, 'a')
    this.child = fork(PROGRAM, [JSON.stringify(argument)], {
      env: { ...process.env, SOAK_LOG: log },
      stdio: ['ignore', errors, errors, 'ipc'],
    })
    fs.closeSync(errors)
    this.pid = /** @type {number} */ (this.child.pid)
    running.add(this)
    this.child.on('message', (/** @type {any} */ message) => this.#onMessage(message))
    this.child.on('error', () => {})
    this.exited = once(this.child, 'exit').then(([code, signal]) => {
      running.delete(this)
      for (const { reject } of this.#calls.values()) reject(new Error(`the primary ended (${code ?? signal})`))
      this.#calls.clear()
      return { code, signal }
    })
  }

  /** @param {any} message */
  #onMessage(message) {
    if (message.table) this.table = message.table
    if (message.closed) this.#onClosed()
    if (!message.call) return
    const call = this.#calls.get(message.call)
    this.#calls.delete(message.call)
    if (message.error) call?.reject(new Error(message.error))
    else call?.resolve(message.value)
  }

  /**
   * @param {string} method
   * @param {...any} args
   * @returns {Promise<any>}
   */
  call(method, ...args) {
    const call = ++this.#lastCall
    return new Promise((resolve, reject) => {
      this.#calls.set(call, { resolve, reject })
      this.child.send({ call, method, args }, (error) => error && reject(error))
    })
  }

  /** Ends it at once, with all that it started. */
  kill() {
    for (const pid of [...descendants(this.pid), this.pid]) signal(pid, 'SIGKILL')
  }
}

/** However this process ends, nothing of what it started stays. */
process.on('exit', () => {
  for (const primary of running) primary.kill()
})

/**
 * The processes below one, children first.
 * @param {number} pid
 * @returns {number[]}
 */
function descendants(pid) {
  let children = ''
  try {
    children = fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
  } catch {
    // Gone meanwhile.
  }
  return children
    .split(' ')
    .filter(Boolean)
    .flatMap((child) => [...descendants(Number(child)), Number(child)])
}

/**
 * @param {number} pid
 * @param {NodeJS.Signals} name
 * @returns {boolean} whether there was such a process
 */
function signal(pid, name) {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** @param {number} pid */
const fdCount = (pid) => fs.readdirSync(`/proc/${pid}/fd`).length

/**
 * How many descriptors a process may have. The hard limit stays, so that it can be raised again.
 * @param {number} pid
 * @param {number} files
 */
async function limitTo(pid, files) {
  await promisify(execFile)('prlimit', ['--pid', `${pid}`, `--nofile=${files}:`])
}

/** @param {number} ms */
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

module.exports = { Primary, descendants, fdCount, limitTo, signal, wait }
