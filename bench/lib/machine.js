'use strict'

// Where it was measured.

const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')

/** How many files a process may have open here. */
function openFileLimit() {
  const line = /^Max open files +(\d+)/m.exec(fs.readFileSync('/proc/self/limits', 'utf8'))
  return line ? Number(line[1]) : 1024
}

function commit() {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty', '--exclude=*'], { cwd: __dirname }).toString().trim()
  } catch {
    return 'unknown'
  }
}

function machine() {
  const [cpu] = os.cpus()
  return {
    cpu: cpu?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: `${os.type()} ${os.release()}`,
    node: process.version,
    commit: commit(),
    date: new Date().toISOString(),
    loadBefore: os.loadavg()[0],
  }
}

module.exports = { machine, openFileLimit }
