'use strict'

// How many of a million connections fail while all workers are replaced every 1.5 s.
//
//   node bench/reload.js [--connections N] [--steering kernel|handover]

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const path = require('node:path')
const { parseArgs } = require('node:util')
const load = require('./lib/load')

const PORT = 18_081

async function main() {
  const { values } = parseArgs({
    options: { connections: { type: 'string', default: '1000000' }, steering: { type: 'string', default: 'auto' } },
  })
  const program = path.join(__dirname, 'contenders', 'reloading.js')
  const primary = spawn(process.execPath, [program, '--steering', values.steering], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, BENCH_PORT: String(PORT), BENCH_WORKERS: '2' },
  })
  await once(primary.stdout, 'data')
  const connections = Number(values.connections)
  const result = await load.run({ port: PORT, connections, seconds: connections / 1000 })
  primary.stdin.end()
  await once(primary, 'exit')
  console.log(`${result.connections} connections, ${result.errors} failed`, result.errorKinds)
  process.exitCode = result.errors === 0 ? 0 : 1
}

main()
