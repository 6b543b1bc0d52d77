'use strict'

const cluster = require('node:cluster')
const { WORKERS } = require('./environment')

/**
 * Tells the driver which processes do what, and ends when the driver does.
 * @param {number} front the primary or proxy, with all its children but the backs
 * @param {number[]} backs the workers
 */
function announce(front, backs) {
  console.log(JSON.stringify({ front, backs }))
  process.stdin.on('end', () => process.exit()).resume()
}

/** Does so for this primary, once all its workers run. */
function announceCluster() {
  let online = 0
  cluster.on('online', () => {
    if (++online < WORKERS) return
    announce(
      process.pid,
      Object.values(cluster.workers ?? {}).map((worker) => Number(worker?.process.pid)),
    )
  })
}

module.exports = { announce, announceCluster }
