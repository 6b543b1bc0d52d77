'use strict'

// Changes the head of a response as Node has written it down, when it is about to be sent.
//
// Whatever the application has set is in it by then, in whatever way it did. Changed before, among the headers, it would
// change what they mean: `writeHead` takes lists of pairs, and with some versions of Node duplicates, only while no header
// was ever set. And the application would see it in `getHeaders()`.

/**
 * @param {import('node:http').ServerResponse} response of which nothing is written yet
 * @param {(head: string, response: any) => string} change
 */
function changeHead(response, change) {
  // Not `writeHead`, which frameworks and applications replace, also in the prototype that they give a response later.
  const own = Object.getOwnPropertyDescriptor(response, '_storeHeader')?.value
  /**
   * @this {any}
   * @param {any[]} args
   */
  function storeHeader(...args) {
    Reflect.apply(own ?? Object.getPrototypeOf(response)._storeHeader, this, args)
    // (It has been sent as well, so that this comes too late, if there is an Expect header, which means nothing in a
    // response.)
    if (typeof this._header === 'string') this._header = change(this._header, this)
  }
  Object.defineProperty(response, '_storeHeader', { value: storeHeader, writable: true, configurable: true })
}

/**
 * A head with one line more.
 * @param {string} head
 * @param {string} line
 */
function withLine(head, line) {
  return `${head.slice(0, -'\r\n'.length)}${line}\r\n\r\n`
}

module.exports = { changeHead, withLine }
