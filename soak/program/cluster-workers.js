'use strict'

// The workers of node:cluster, whose table is the balancer's own. A place is another worker's as soon as the one before
// it is told to go, so "slot" here is only which of them.

const cluster = require('node:cluster')
const { once } = require('node:events')

const AGAIN_AFTER = 100

/** @typedef {import('node:cluster').Worker} Worker */

class ClusterWorkers {
  #count = 0
  /** @type {Set<Worker>} that are to be replaced when they go */
  #staff = new Set()
  #ended = false
  activeWorkers = undefined

  /**
   * @param {string} file
   * @param {(what: string, fields?: object) => void} log
   */
  constructor(file, log) {
    cluster.setupPrimary({ exec: file, args: [] })
    cluster.on('fork', (worker) => worker.on('error', () => {}))
    cluster.on('exit', (worker, code, signal) => {
      log('exit', { child: worker.process.pid, code, signal })
      if (!this.#staff.delete(worker) || this.#ended) return
      this.#again()
    })
  }

  #again() {
    this.#fill().catch(() => setTimeout(() => this.#again(), AGAIN_AFTER))
  }

  /** As many as there are to be; resolves when those that it started are ready. */
  async #fill() {
    const ready = []
    while (!this.#ended && this.#staff.size < this.#count) {
      const worker = cluster.fork()
      this.#staff.add(worker)
      ready.push(this.#ready(worker))
    }
    await Promise.all(ready)
  }

  /**
   * Until it is ready, or gone.
   * @param {Worker} worker
   */
  async #ready(worker) {
    await Promise.race([once(worker, 'message'), once(worker, 'exit')])
  }

  /** @param {Worker} worker */
  #dismiss(worker) {
    this.#staff.delete(worker)
    if (worker.isConnected()) worker.disconnect()
  }

  /** @param {number} pick */
  async replace(pick) {
    const before = [...this.#staff][pick]
    if (!before) return
    this.#staff.delete(before)
    await this.#fill()
    this.#dismiss(before)
  }

  async reload() {
    const before = [...this.#staff]
    this.#staff.clear()
    await this.#fill()
    for (const worker of before) this.#dismiss(worker)
  }

  /** @param {number} count */
  async resize(count) {
    this.#count = count
    for (const worker of [...this.#staff].slice(count)) this.#dismiss(worker)
    await this.#fill()
  }

  /**
   * One worker less, for a while.
   * @param {number} pick
   * @param {number} ms
   */
  async empty(pick, ms) {
    const worker = [...this.#staff][pick]
    // Without any worker there is no slot either, after some seconds.
    if (!worker || this.#count === 1) return
    this.#count--
    this.#dismiss(worker)
    await new Promise((resolve) => setTimeout(resolve, ms))
    this.#count++
    await this.#fill()
  }

  end() {
    this.#ended = true
    for (const worker of Object.values(cluster.workers ?? {})) if (worker?.isConnected()) worker.disconnect()
  }
}

module.exports = { ClusterWorkers }
