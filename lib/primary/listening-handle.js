'use strict'

// Puts the native accept loop behind a listening handle of Node's own.
//
// `net.Server` makes and binds its handle as ever, so that every form of listen(), every error, the
// address, the mode of a unix socket and its removal stay Node's. Only what makes a handle listen is
// replaced: listen() starts the native loop, and a timer stands for the handle in keeping the process
// alive, as the handle itself never becomes active.

const debug = require('../debug')

/**
 * @typedef {object} Acceptor
 * @property {(fd: number | undefined, backlog: number) => number} listen returns 0 or a negative errno;
 *   without a descriptor somebody else listens, and injects
 * @property {(fd: number) => void} inject takes in a copy of an accepted connection
 * @property {() => void} start listening has succeeded
 * @property {() => void} close
 */

// The longest that a timer of Node waits, in milliseconds.
const FOREVER = 2 ** 31 - 1

/**
 * @param {any} handle of `net.Server`: its TCP or Pipe handle, or what `node:cluster` gives a worker
 * @param {() => Acceptor} makeAcceptor called when the handle starts to listen
 */
function takeOver(handle, makeAcceptor) {
  const { listen, close } = handle
  /** @type {Acceptor | undefined} */
  let acceptor
  /** @type {NodeJS.Timeout | undefined} */
  let alive
  let referenced = true

  handle.listen = (/** @type {number} */ backlog) => {
    // libuv keeps an error of bind() for listen(); getsockname() tells it.
    const delayed = handle.getsockname?.({})
    if (delayed) return delayed
    const taker = makeAcceptor()
    acceptor = taker
    // When the handle was listening before it came here, or belongs to a cluster whose primary
    // accepts for this process, connections arrive through Node as well.
    handle.onconnection = (/** @type {number} */ error, /** @type {any} */ client) => {
      if (error) return
      try {
        taker.inject(client.fd)
      } catch (error) {
        debug('a connection is lost: %s', error)
      }
      client.close()
    }
    const fd = handle.fd >= 0 ? handle.fd : undefined
    // As a handle of Node takes it: whatever it is, as a 32-bit integer.
    let error = taker.listen(fd, backlog | 0)
    if (!error && fd === undefined) error = listen.call(handle, backlog)
    if (!error) {
      alive = setInterval(() => {}, FOREVER)
      if (!referenced) alive.unref()
      taker.start()
    }
    return error
  }
  handle.close = (/** @type {unknown[]} */ ...args) => {
    clearInterval(alive)
    acceptor?.close()
    return close.apply(handle, args)
  }
  handle.ref = () => {
    referenced = true
    alive?.ref()
  }
  handle.unref = () => {
    referenced = false
    alive?.unref()
  }
  handle.hasRef = () => alive !== undefined && referenced
}

module.exports = { takeOver }
