'use strict'

// Sets a cookie with the response to a request that became an upgrade. Node leaves it to the application
// to write that response, so it is known by its first line only.

const { setsCookie } = require('./set-cookie')

const STATUS = /^HTTP\/1\.\d \d{3}/
const EXAMPLE = 'HTTP/1.1 101'

/**
 * The bytes of a chunk as characters, if it is one that Node's streams have always accepted.
 * @param {any} socket
 * @param {any} chunk
 * @param {any} encoding or a callback, as in `write()`
 */
function charactersOf(socket, chunk, encoding) {
  if (chunk instanceof Uint8Array)
    return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString('latin1')
  if (typeof chunk !== 'string') return
  const known = encoding && typeof encoding !== 'function' ? encoding : socket._writableState.defaultEncoding
  if (Buffer.isEncoding(known)) return Buffer.from(chunk, known).toString('latin1')
}

/**
 * If what is written to the socket first is a response of HTTP/1, it sets the cookie as well. The line
 * follows the first one, as the others may be written later. If the application sets a cookie of that name
 * there, ours is left out; if it does so with a later write, a browser sees its line last, and keeps that.
 * @param {import('node:stream').Duplex} socket
 * @param {string} name
 * @param {string} cookie
 */
function setCookieOnUpgrade(socket, name, cookie) {
  const object = /** @type {any} */ (socket)
  let watching = true
  /** The first characters of the first line, as far as it was written. */
  let start = ''
  /** @type {(() => void)[]} */
  const restorers = []

  const stop = () => {
    watching = false
    for (const restore of restorers) restore()
  }

  /**
   * What is to be written for a chunk.
   * @param {any} chunk
   * @param {any} encoding
   */
  const withCookie = (chunk, encoding) => {
    const text = charactersOf(object, chunk, encoding)
    if (text !== undefined) {
      start = (start + text).slice(0, EXAMPLE.length)
      if (STATUS.test(start + EXAMPLE.slice(start.length))) {
        const end = text.indexOf('\n') + 1
        if (end === 0) return chunk
        stop()
        if (setsCookie(text.split('\r\n\r\n', 1)[0], name)) return chunk
        return Buffer.from(`${text.slice(0, end)}Set-Cookie: ${cookie}\r\n${text.slice(end)}`, 'latin1')
      }
    }
    stop()
    return chunk
  }

  for (const method of ['write', 'end']) {
    const own = Object.getOwnPropertyDescriptor(object, method)
    const before = object[method]
    /**
     * @this {any}
     * @param {any[]} args
     */
    const value = function (...args) {
      if (watching && args.length > 0) args[0] = withCookie(args[0], args[1])
      return Reflect.apply(before, this, args)
    }
    Object.defineProperty(object, method, { value, writable: true, configurable: true })
    restorers.push(() => {
      // Who has put a function of their own on ours since then goes on calling it.
      if (object[method] !== value) return
      if (own) Object.defineProperty(object, method, own)
      else delete object[method]
    })
  }
}

module.exports = { setCookieOnUpgrade }
