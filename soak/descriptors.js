'use strict'

// What processes have open, by /proc.

const fs = require('node:fs')

const LISTENING = '0A'

// Each accept loop has one, and slots that are gone have accept loops.
const RESERVE = '/dev/null'

/**
 * @typedef {object} Holdings
 * @property {number} connections of TCP, closed by the other side or not
 * @property {number} unix sockets: channels, and what Node has for each child
 * @property {number} memory that is shared with workers
 * @property {number} others but listening sockets, and what is in reserve for them
 */

/**
 * @param {number} pid
 * @returns {Holdings}
 */
function holdings(pid) {
  const holdings = { connections: 0, unix: 0, memory: 0, others: 0 }
  const links = linksOf(pid)
  const [unix, listening, tables] = [unixSockets(), listeningSockets(), otherSockets()]
  for (const link of links) {
    if (link === RESERVE) continue
    const [, inode] = /^socket:\[(\d+)\]$/.exec(link) ?? []
    if (inode === undefined) holdings[link.startsWith('/memfd:') ? 'memory' : 'others']++
    else if (unix.has(inode)) holdings.unix++
    // One of a connection that is closed is in no list any more.
    else if (!listening.has(inode) && !tables.has(inode)) holdings.connections++
  }
  return holdings
}

/** @param {number} pid */
function linksOf(pid) {
  const folder = `/proc/${pid}/fd`
  return fs.readdirSync(folder).flatMap((fd) => {
    try {
      return [fs.readlinkSync(`${folder}/${fd}`)]
    } catch {
      // Closed meanwhile.
      return []
    }
  })
}

/** @param {string} protocol */
function rows(protocol) {
  const file = `/proc/net/${protocol}`
  const lines = fs.existsSync(file) ? fs.readFileSync(file, 'utf8').trim().split('\n').slice(1) : []
  return lines.map((line) => line.trim().split(/\s+/))
}

const unixSockets = () => new Set(rows('unix').map((row) => row[6]))
const listeningSockets = () =>
  new Set(['tcp', 'tcp6'].flatMap(rows).flatMap((row) => (row[3] === LISTENING ? row[9] : [])))
const otherSockets = () => new Set(['udp', 'udp6'].flatMap(rows).map((row) => row[9]))

module.exports = { holdings }
