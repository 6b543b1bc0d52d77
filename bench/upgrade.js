'use strict'

// How many of a million connections fail while the program is replaced by its next version again and again.
//
//   node bench/upgrade.js [--connections N] [--upgrades N] [--interval SECONDS] [--steering kernel|handover]

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const { parseArgs } = require('node:util')
const load = require('./lib/load')

const PORT = 18_082

async function main() {
  const { values } = parseArgs({
    options: {
      connections: { type: 'string', default: '1000000' },
      upgrades: { type: 'string', default: '20' },
      interval: { type: 'string', default: '4' },
      steering: { type: 'string', default: 'auto' },
    },
  })
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'upgrade-'))
  const start = async () => {
    const program = path.join(__dirname, 'contenders', 'upgrading.js')
    const args = [program, path.join(folder, 'balancer.sock'), '--steering', values.steering]
    const version = spawn(process.execPath, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, BENCH_PORT: String(PORT), BENCH_WORKERS: '2' },
    })
    await once(version.stdout, 'data')
    return version
  }
  let version = await start()
  const connections = Number(values.connections)
  let over = false
  const loading = load.run({ port: PORT, connections, seconds: connections / 500 }).finally(() => {
    over = true
  })
  let upgrades = 0
  while (!over && upgrades < Number(values.upgrades)) {
    await sleep(Number(values.interval) * 1000)
    const ended = once(version, 'exit')
    version = await start()
    await ended
    upgrades++
  }
  const result = await loading
  version.kill()
  fs.rmSync(folder, { recursive: true })
  console.log(`${result.connections} connections, ${upgrades} upgrades, ${result.errors} failed`, result.errorKinds)
  process.exitCode = result.errors === 0 ? 0 : 1
}

main()
