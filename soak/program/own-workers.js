'use strict'

// A manager as programs write it: a table of forked children, in which each has its place.

const { fork } = require('node:child_process')

// A crashed or failed start is tried again, in milliseconds.
const AGAIN_AFTER = 100

/** @typedef {import('node:child_process').ChildProcess} ChildProcess */

class OwnWorkers {
  /** @type {(ChildProcess | null)[]} */
  #table = []
  /** @type {Set<number>} places that are to stay empty for now */
  #kept = new Set()
  #file
  #log
  #ended = false

  /**
   * @param {string} file
   * @param {(what: string, fields?: object) => void} log
   */
  constructor(file, log) {
    this.#file = file
    this.#log = log
  }

  activeWorkers = () => this.#table

  /**
   * A child that is ready, whatever that takes. Nothing if there is no use for it any more.
   * @param {() => boolean} wanted
   * @returns {Promise<ChildProcess | null>}
   */
  async #start(wanted) {
    while (!this.#ended && wanted()) {
      const child = await this.#fork()
      if (child && !this.#ended && wanted()) return child
      child?.disconnect()
      if (!child) await new Promise((resolve) => setTimeout(resolve, AGAIN_AFTER))
    }
    return null
  }

  /** @returns {Promise<ChildProcess | null>} */
  #fork() {
    return new Promise((resolve) => {
      /** @type {ChildProcess} */
      let child
      try {
        child = fork(this.#file)
      } catch {
        // Without descriptors there are no pipes.
        return resolve(null)
      }
      child.on('error', () => resolve(null))
      child.on('message', (/** @type {any} */ message) => message?.cmd === 'ready' && resolve(child))
      child.on('exit', (code, signal) => {
        this.#log('exit', { child: child.pid, code, signal })
        resolve(null)
        const slot = this.#table.indexOf(child)
        if (slot === -1) return
        this.#table[slot] = null
        if (!this.#kept.has(slot)) this.#fill(slot)
      })
    })
  }

  /**
   * Another worker for a place.
   * @param {number} slot
   * @returns {Promise<void>}
   */
  async #fill(slot) {
    const before = this.#table[slot]
    const wanted = () => slot < this.#table.length && this.#table[slot] === before && !this.#kept.has(slot)
    const child = await this.#start(wanted)
    if (!child) return
    if (!child.connected) return this.#fill(slot)
    this.#table[slot] = child
    if (before?.connected) before.disconnect()
  }

  /** @param {number} slot */
  replace(slot) {
    return slot < this.#table.length ? this.#fill(slot) : undefined
  }

  async reload() {
    await Promise.all(this.#table.map((_, slot) => this.#fill(slot)))
  }

  /** @param {number} count */
  async resize(count) {
    for (const child of this.#table.splice(count)) if (child?.connected) child.disconnect()
    const more = []
    while (this.#table.length < count) {
      this.#table.push(null)
      more.push(this.#fill(this.#table.length - 1))
    }
    await Promise.all(more)
  }

  /**
   * Leaves a place empty for a while.
   * @param {number} slot
   * @param {number} ms
   */
  async empty(slot, ms) {
    const child = this.#table[slot]
    if (!child || this.#kept.has(slot)) return
    this.#kept.add(slot)
    this.#table[slot] = null
    if (child.connected) child.disconnect()
    await new Promise((resolve) => setTimeout(resolve, ms))
    this.#kept.delete(slot)
    if (this.#table[slot] === null) await this.#fill(slot)
  }

  end() {
    this.#ended = true
    for (const child of this.#table.splice(0)) if (child?.connected) child.disconnect()
  }
}

module.exports = { OwnWorkers }
