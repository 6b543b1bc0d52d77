'use strict'

// What all processes of a history write down, a line each, in one file. A line is one write(2) to the end of the file, so
// it is there once the call returns, whatever happens to the process then.

const fs = require('node:fs')
const { now } = require('./clock')

/**
 * A line. `what` tells which other fields there are.
 * @typedef {{ t: number, pid: number, what: string } & { [field: string]: any }} Entry
 */

/**
 * @param {string} file
 * @returns {(what: string, fields?: object) => void}
 */
function openLog(file) {
  const fd = fs.openSync(file, 'a')
  return (what, fields) => {
    fs.writeSync(fd, `${JSON.stringify({ t: now(), pid: process.pid, what, ...fields })}\n`)
  }
}

/**
 * @param {string} file
 * @returns {Entry[]} in the order in which they happened
 */
function readLog(file) {
  const lines = fs.readFileSync(file, 'utf8').split('\n')
  return lines
    .filter(Boolean)
    .map((line) => JSON.parse(line))
    .sort((a, b) => a.t - b.t)
}

module.exports = { openLog, readLog }
