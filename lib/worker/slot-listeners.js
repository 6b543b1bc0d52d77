'use strict'

// The listening sockets of slots that a balancer has lent to this worker. Node accepts from them as it does from any
// other.

// Node's number for a handle that listens, in its class of TCP handles.
const SERVER = 1

class SlotListeners {
  /** @type {Map<number, any>} the handle of each slot */
  #handles = new Map()

  /**
   * Accepts from a socket, in place of the slot's last one.
   * @param {any} TCP the class of handles
   * @param {number} slot
   * @param {number} fd
   * @param {number} backlog that the socket has
   * @param {(client: any) => void} onConnection
   * @returns {boolean} whether it could
   */
  open(TCP, slot, fd, backlog, onConnection) {
    this.close(slot)
    const handle = new TCP(SERVER)
    handle.onconnection = (/** @type {number} */ error, /** @type {any} */ client) => {
      if (!error) onConnection(client)
    }
    this.#handles.set(slot, handle)
    if (handle.open(fd) || handle.listen(backlog)) {
      this.close(slot)
      return false
    }
    // As with connections that are handed over, what keeps the worker alive is its IPC channel.
    handle.unref()
    return true
  }

  /** @param {number} slot */
  close(slot) {
    this.#handles.get(slot)?.close()
    this.#handles.delete(slot)
  }

  closeAll() {
    for (const slot of [...this.#handles.keys()]) this.close(slot)
  }
}

module.exports = { SlotListeners }
