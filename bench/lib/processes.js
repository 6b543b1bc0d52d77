'use strict'

// What processes have used, from /proc.

const fs = require('node:fs')

/** @param {string} file */
function read(file) {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

/**
 * A process and all that descend from it.
 * @param {number} root
 * @returns {number[]}
 */
function tree(root) {
  /** @type {Map<number, number[]>} */
  const children = new Map()
  for (const entry of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    // The command, in parentheses, may hold anything.
    const stat = read(`/proc/${entry}/stat`)
    const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
    children.set(parent, [...(children.get(parent) ?? []), Number(entry)])
  }
  /** @type {(pid: number) => number[]} */
  const below = (pid) => [pid, ...(children.get(pid) ?? []).flatMap(below)]
  return below(root)
}

/**
 * Processor time so far, in microseconds. Summed over threads, as only there the kernel says it in
 * nanoseconds; the clock ticks of `stat` are too coarse.
 * @param {number[]} pids
 */
function cpuMicros(pids) {
  let nanos = 0
  for (const pid of pids) {
    for (const thread of fs.readdirSync(`/proc/${pid}/task`)) {
      nanos += Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0])
    }
  }
  return nanos / 1000
}

/**
 * Resident memory, in bytes.
 * @param {number[]} pids
 */
function residentBytes(pids) {
  const kibibytes = pids.map((pid) => Number(/^VmRSS:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0))
  return kibibytes.reduce((sum, size) => sum + size, 0) * 1024
}

/** @param {number} pid */
function isRunning(pid) {
  return read(`/proc/${pid}/stat`) !== '' && !/\) [ZX] /.test(read(`/proc/${pid}/stat`))
}

module.exports = { tree, cpuMicros, residentBytes, isRunning }
