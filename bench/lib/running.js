'use strict'

// A contender while it runs.

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const path = require('node:path')
const readline = require('node:readline')
const { setTimeout: sleep } = require('node:timers/promises')
const load = require('./load')
const { cpuMicros, isRunning, residentBytes, tree } = require('./processes')

const START_TIME = 20_000
const STOP_TIME = 5_000

class Running {
  #program
  #workers
  /** @type {number[]} */
  #front = []
  /** @type {number[]} */
  #backs = []

  /**
   * @param {import('../contenders').Contender} contender
   * @param {number} port
   * @param {number} workers
   */
  constructor(contender, port, workers) {
    this.contender = contender
    this.port = port
    this.#workers = workers
    this.#program = spawn(
      process.execPath,
      [path.join(__dirname, '..', 'contenders', contender.program), ...(contender.args ?? [])],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
        env: {
          ...process.env,
          BENCH_PORT: String(port),
          BENCH_WORKERS: String(workers),
          // The old packages call what is deprecated today.
          NODE_NO_WARNINGS: '1',
        },
      },
    )
  }

  /** Resolves when every worker answers. */
  async ready() {
    const lines = readline.createInterface({ input: this.#program.stdout })
    const first = await Promise.race([once(lines, 'line'), once(this.#program, 'exit'), sleep(START_TIME)])
    if (typeof first?.[0] !== 'string') throw new Error(`${this.contender.name} did not start`)
    const { front, backs } = JSON.parse(first[0])
    const deadline = Date.now() + START_TIME
    for (;;) {
      const probe = await load.run({ port: this.port, connections: 100, xff: this.contender.behindProxy })
      if (probe.workers === this.#workers && probe.errors === 0) break
      if (Date.now() > deadline) {
        throw new Error(`${this.contender.name}: not every worker answers (${JSON.stringify(probe)})`)
      }
      await sleep(100)
    }
    this.#backs = backs.flatMap(tree)
    this.#front = tree(front).filter((pid) => !this.#backs.includes(pid))
  }

  /** What the primary or proxy, and all together, have used so far. */
  usage() {
    const front = cpuMicros(this.#front)
    return { front, all: front + cpuMicros(this.#backs) }
  }

  /** The same of memory. */
  memory() {
    const front = residentBytes(this.#front)
    return { front, all: front + residentBytes(this.#backs) }
  }

  async stop() {
    const pids = [...this.#front, ...this.#backs]
    if (this.#program.exitCode === null) this.#program.kill('SIGTERM')
    const deadline = Date.now() + STOP_TIME
    while ((this.#program.exitCode ?? this.#program.signalCode) === null || pids.some(isRunning)) {
      if (Date.now() > deadline) {
        this.#program.kill('SIGKILL')
        for (const pid of pids.filter(isRunning)) process.kill(pid, 'SIGKILL')
      }
      await sleep(20)
    }
  }
}

module.exports = { Running }
