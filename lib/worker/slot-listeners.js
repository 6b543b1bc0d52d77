'use strict'

// The listening sockets of slots that a balancer has lent to this worker. Node accepts from them as it does from any
// other. Each loan has a number, as messages about it may cross.

const fs = require('node:fs')

// Node's number for a handle that listens, in its class of TCP handles.
const SERVER = 1

class SlotListeners {
  /** @type {Map<number, { handle: any, number: number }>} by slot */
  #open = new Map()
  #onReturn

  /** @param {(slot: number, number: number) => void} onReturn called when the socket of a loan is closed, or was none */
  constructor(onReturn) {
    this.#onReturn = onReturn
  }

  /**
   * Accepts from a socket, in place of the slot's last one.
   * @param {any} TCP the class of handles
   * @param {number} slot
   * @param {number} number of the loan
   * @param {{ fd: number, backlog: number }} socket with the backlog that it has
   * @param {(client: any) => void} onConnection
   */
  open(TCP, slot, number, { fd, backlog }, onConnection) {
    this.giveBack(slot)
    const handle = new TCP(SERVER)
    this.#open.set(slot, { handle, number })
    handle.onconnection = (/** @type {number} */ error, /** @type {any} */ client) => {
      // The primary has shut it down. Left open, some versions of libuv would say so for ever.
      if (error) this.giveBack(slot, number)
      else onConnection(client)
    }
    const failed = handle.open(fd)
    if (failed) fs.closeSync(fd)
    if (failed || handle.listen(backlog)) return this.giveBack(slot, number)
    // As with connections that are handed over, what keeps the worker alive is its IPC channel.
    handle.unref()
  }

  /**
   * Closes the socket of a slot, if its loan has this number; a loan that has ended already is given back all the same.
   * @param {number} slot
   * @param {number} [number]
   */
  giveBack(slot, number = this.#open.get(slot)?.number) {
    if (number === undefined) return
    if (this.#open.get(slot)?.number === number) this.#close(slot)
    this.#onReturn(slot, number)
  }

  giveAllBack() {
    for (const slot of [...this.#open.keys()]) this.giveBack(slot)
  }

  /** Without giving back: whoever lent them is gone, or will know by itself. */
  close() {
    for (const slot of [...this.#open.keys()]) this.#close(slot)
  }

  /** @param {number} slot */
  #close(slot) {
    this.#open.get(slot)?.handle.close()
    this.#open.delete(slot)
  }
}

module.exports = { SlotListeners }
