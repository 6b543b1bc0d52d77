'use strict'

// The worker's end of a channel, on its way to the worker.
//
// Node writes a message when the IPC pipe has room, and takes the descriptor from its handle only then:
// closed before, the handle would be read after it was freed. So this end stays open until nobody needs
// it and Node is done with it.

const net = require('node:net')

class HandOver {
  /** @type {net.Socket & Record<string, any>} */
  #socket
  #sending = true
  #needed = true

  /** @param {number} fd */
  constructor(fd) {
    // manualStart, which keeps Node from reading, is not documented.
    const options = { fd, readable: false, writable: true, manualStart: true }
    this.#socket = new net.Socket(options)
  }

  /** The bare handle, as the receiver is to get it: not a socket that starts to read. */
  get handle() {
    return this.#socket._handle
  }

  /** Whether Node may still write it. */
  get sending() {
    return this.#sending
  }

  /** Node has written it, or never will. */
  sent() {
    this.#sending = false
    this.#close()
  }

  /** The worker has it, or is not to have it. */
  release() {
    this.#needed = false
    this.#close()
  }

  #close() {
    if (!this.#sending && !this.#needed) this.#socket.destroy()
  }
}

module.exports = { HandOver }
