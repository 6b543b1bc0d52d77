'use strict'

// Who the clients are, and how each says so in the configuration of a history.

const CLIENTS = 40

/**
 * The address of a client: one of this machine's, or one that a proxy tells.
 * @param {import('../history').Configuration} configuration
 * @returns {string[]}
 */
function clientsOf({ options }) {
  const told = options.behindProxy || options.proxyProtocol
  return Array.from({ length: CLIENTS }, (_, n) => `${told ? '10.9' : '127.1'}.${n >> 6}.${(n & 63) + 1}`)
}

/**
 * @typedef {object} Identity
 * @property {string} localAddress
 * @property {(localPort: number) => string} preamble before the request
 * @property {string[]} headers
 * @property {string} peer the address that a worker sees
 */

/**
 * @param {import('../history').Configuration} configuration
 * @param {string} client
 * @returns {Identity}
 */
function identityOf({ options: { behindProxy, proxyProtocol } }, client) {
  const localAddress = behindProxy || proxyProtocol ? '127.0.0.1' : client
  // With both, the request's header decides, and the other address is that of a hop between.
  const peer = !proxyProtocol ? localAddress : behindProxy ? '10.8.0.1' : client
  return {
    localAddress,
    peer,
    preamble: (port) => (proxyProtocol ? `PROXY TCP4 ${peer} 127.0.0.1 ${port} 80\r\n` : ''),
    headers: behindProxy ? [`X-Forwarded-For: ${client}`] : [],
  }
}

module.exports = { clientsOf, identityOf }
