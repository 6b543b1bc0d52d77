'use strict'

// The requests of HTTP/1 to a server, seen before anybody else sees them.

const diagnostics = require('node:diagnostics_channel')

// Published for each of them before its listeners are called, which libraries may replace by their own (engine.io does).
const REQUEST = 'http.server.request.start'

/**
 * @param {unknown} server
 * @param {(request: import('node:http').IncomingMessage, response: import('node:http').ServerResponse) => void} onRequest
 * @returns {() => void} ends it
 */
function watchRequests(server, onRequest) {
  const listener = (/** @type {any} */ message) => {
    if (message.server === server) onRequest(message.request, message.response)
  }
  diagnostics.subscribe(REQUEST, listener)
  return () => diagnostics.unsubscribe(REQUEST, listener)
}

module.exports = { watchRequests }
