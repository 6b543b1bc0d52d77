'use strict'

// What primary and worker say over the IPC channel of their process, beside what the user's program
// says there. Connections never pass this way: it only serves to hand over the private channel.
//
//   worker  → primary   listening   a server takes connections under this name
//   worker  → primary   closed      that server does not any more
//   primary → worker    query       who listens? (asked of a worker that may have said so before
//                                   anybody heard)
//   primary → worker    channel     with a handle: the private channel for that server, and how its
//                                   balancer tells clients apart
//   primary → worker    slots       which slots of how many that server's worker serves now

// Goes with the words above and with the channel's own; both sides are usually of one version, but a
// worker may outlive an upgrade on disk.
const VERSION = 8

const PREFIX = 'sticky-listen:'

/**
 * @typedef {{ cmd: 'sticky-listen:listening', version: number, name: string, listener: number }} Listening
 * @typedef {{ cmd: 'sticky-listen:closed', listener: number }} Closed
 * @typedef {{ cmd: 'sticky-listen:query' }} Query
 * @typedef {{ cmd: 'sticky-listen:channel', listener: number, channel: number, pipe: boolean,
 *   address: Address, identity: Identity | null }} Channel
 * @typedef {{ cmd: 'sticky-listen:slots', listener: number, channel: number, slots: number, own: number[] }} Slots
 * @typedef {import('node:net').AddressInfo | string | null} Address as of `server.address()`
 * @typedef {{ key: string, ipv6Prefix: number, header?: string, maxHeaderSize: number, hops?: number,
 *   networks?: string[], sessions?: Sessions }} Identity
 *   how a balancer tells clients apart by their requests, with its key in base64
 * @typedef {import('./affinity').Affinity & { key: string }} Sessions
 */

/**
 * @param {string} name
 * @param {number} listener
 * @returns {Listening}
 */
const listening = (name, listener) => ({ cmd: `${PREFIX}listening`, version: VERSION, name, listener })

/**
 * @param {number} listener
 * @returns {Closed}
 */
const closed = (listener) => ({ cmd: `${PREFIX}closed`, listener })

/** @returns {Query} */
const query = () => ({ cmd: `${PREFIX}query` })

/**
 * @param {Omit<Channel, 'cmd'>} content
 * @returns {Channel}
 */
const channel = (content) => ({ cmd: `${PREFIX}channel`, ...content })

/**
 * @param {Omit<Slots, 'cmd'>} content
 * @returns {Slots}
 */
const slots = (content) => ({ cmd: `${PREFIX}slots`, ...content })

/**
 * Whether a worker's announcement is of the form that it has in all versions. What another process says may be anything.
 * @param {any} message
 * @returns {message is Listening}
 */
function isListening(message) {
  const { cmd, version, name, listener } = message
  const numbers = Number.isInteger(version) && Number.isInteger(listener)
  return cmd === `${PREFIX}listening` && numbers && typeof name === 'string'
}

/**
 * The message if it is one of ours.
 * @param {any} message
 * @returns {Listening | Closed | Query | Channel | Slots | undefined}
 */
function parse(message) {
  const cmd = message?.cmd
  return typeof cmd === 'string' && cmd.startsWith(PREFIX) ? message : undefined
}

module.exports = { VERSION, channel, closed, isListening, listening, parse, query, slots }
