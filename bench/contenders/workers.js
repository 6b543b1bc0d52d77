'use strict'

const cluster = require('node:cluster')
const path = require('node:path')
const { announceCluster } = require('./announce')
const { WORKERS } = require('./environment')

/**
 * Starts the workers of a primary.
 * @param {string} program of this folder
 * @param {string[]} args
 */
function startWorkers(program, args = []) {
  cluster.setupPrimary({ exec: path.join(__dirname, program), args })
  announceCluster()
  return Array.from({ length: WORKERS }, () => cluster.fork())
}

module.exports = { startWorkers }
