'use strict'

// Programs made of the blocks of code on a page, run as a reader would run them.
//
// A comment above a block says what it is:
//
//   <!-- file: cluster.js -->          a whole file. The files under one heading are one program, which cluster.js, or
//                                      cluster.mjs, starts.
//   <!-- in: primary -->               a part of cluster.js: PRIMARY precedes it
//   <!-- in: balancer -->              the same, after BALANCER as well
//   <!-- in: worker -->                a part of server.js: stands between WORKER and WORKER_END
//   <!-- throws: ERR_CODE -->          a part of cluster.js that throws this, or emits it as an error
//   <!-- worker throws: ERR_CODE -->   the same of server.js
//   <!-- before: PACKAGE -->           a program of another package, of those that the bench installs
//
// What a program lacks, cluster.js or server.js, and what completes a part, is in program-parts.js. `; asked: WAY` says how it
// is asked: see WAYS.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const https = require('node:https')
const net = require('node:net')
const path = require('node:path')
const { createInterface } = require('node:readline')
const vm = require('node:vm')
const { selfSigned } = require('./certificates')
const { readAll, request, until } = require('./client')
const { ROOT } = require('./markdown')
const { directory } = require('./places')
const { BALANCER, CLUSTER, PRIMARY, SERVER, WORKER, WORKER_END } = require('./program-parts')
const { descendants, signal } = require('./process')

const PRELOAD = path.join(__dirname, 'program-preload.js')
const HEALTH = path.join(ROOT, 'examples', 'fleet', 'health.js')
const BENCH = path.join(ROOT, 'bench', 'node_modules')

// A worker that dies in the moment in which a test looks is no surprise.
const CLIENTS = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '127.0.0.4']

// Where a server of socket.io answers, as do all others here.
const POLLING = '/socket.io/?EIO=4&transport=polling'

/**
 * The files of a program.
 * @typedef {Map<string, string>} Files
 */

/**
 * The programs of a page: whole ones, and one for each part.
 * @param {import('./markdown').Block[]} blocks those in JavaScript
 * @returns {{ name: string, files: Files, kind: string, value: string, asked: string | undefined }[]}
 */
function programsOf(blocks) {
  const programs = []
  const whole = new Map()
  for (const { page, line, section, directive, text } of blocks) {
    if (!directive) throw new Error(`${page}:${line}: no comment above the block says how it is tested`)
    const { kind, value, asked } = directive
    const name = `${page}:${line}`
    if (kind === 'file') {
      let program = whole.get(section)
      if (!program) {
        program = { name, files: new Map(), kind, value: 'cluster.js', asked }
        whole.set(section, program)
        programs.push(program)
      }
      if (program.files.has(value)) throw new Error(`${name}: ${value} is there twice under one heading`)
      program.files.set(value, text)
      program.asked ??= asked
    } else {
      programs.push({ name, files: filesOf(kind, value, text, name), kind, value, asked })
    }
  }
  return programs
}

/** @returns {Files} */
function filesOf(kind, value, text, name) {
  switch (kind === 'in' ? value : kind) {
    case 'primary':
    case 'throws':
      return new Map([['cluster.js', PRIMARY + text]])
    case 'balancer':
      return new Map([['cluster.js', PRIMARY + BALANCER + text]])
    case 'worker':
    case 'worker throws':
      return new Map([['server.js', WORKER + text + WORKER_END]])
    case 'before':
      return new Map([['cluster.js', text]])
  }
  throw new Error(`${name}: no test knows "${kind}: ${value}"`)
}

/**
 * Puts the files of a program where its packages are found.
 * @param {import('node:test').TestContext} t
 * @param {Files} files
 * @param {string} [before] the package that is shown to be replaced
 */
function place(t, files, before) {
  const folder = directory(t)
  const modules = path.join(folder, 'node_modules')
  fs.mkdirSync(modules)
  for (const name of fs.readdirSync(path.join(ROOT, 'node_modules'))) {
    if (!name.startsWith('.')) fs.symlinkSync(path.join(ROOT, 'node_modules', name), path.join(modules, name))
  }
  if (before === 'sticky-listen 3') {
    fs.symlinkSync(path.join(BENCH, 'original'), path.join(modules, 'sticky-listen'))
  } else {
    fs.symlinkSync(ROOT, path.join(modules, 'sticky-listen'))
    if (before) {
      fs.rmSync(path.join(modules, before.split('/')[0]), { force: true })
      fs.symlinkSync(path.join(BENCH, before.split('/')[0]), path.join(modules, before.split('/')[0]))
    }
  }
  const completed = before ? files : new Map([['cluster.js', CLUSTER], ['server.js', SERVER], ...files])
  for (const [name, text] of completed) {
    fs.writeFileSync(path.join(folder, name), text)
    // Which the page says to copy.
    if (text.includes("require('./health')")) fs.copyFileSync(HEALTH, path.join(folder, 'health.js'))
  }
  return folder
}

/**
 * Starts a program.
 * @param {import('node:test').TestContext} t
 * @param {string} folder
 * @param {{ file?: string, env?: object, fd3?: number | 'ignore', command?: string[] }} [options] `command`: what runs
 *   Node instead of us
 */
function run(t, folder, { file = 'cluster.js', env, fd3 = 'ignore', command = [] } = {}) {
  const [program, ...args] = [...command, process.execPath, file]
  const child = spawn(program, args, {
    cwd: folder,
    env: { ...process.env, NODE_OPTIONS: `--require=${PRELOAD}`, ...env },
    stdio: ['ignore', 'pipe', 'pipe', fd3, 'pipe'],
  })
  const running = {
    child,
    output: '',
    /** The pids of its workers. */
    workers: () => descendants(child.pid),
    exited: once(child, 'exit').then(([code, by]) => ({ code, by })),
    addresses: [],
    /** The workers of each balancer's slots. */
    slots: {},
    /** The sessions of which a primary of @socket.io/sticky knows the worker. */
    bound: new Set(),
    /** Where its first, or nth, server listens. */
    listens: (n = 0) => running.until(() => running.addresses[n]),
    /** Waits for a condition while the program runs. */
    until: (condition) =>
      until(async () => {
        const value = await condition()
        if (!value && (child.exitCode ?? child.signalCode) !== null) assert.fail(`the program ended: ${running.output}`)
        return value
      }),
    kill: () => {
      for (const pid of [...descendants(child.pid), child.pid]) signal(pid, 'SIGKILL')
      return running.exited
    },
  }
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      running.output += text
    })
  }
  createInterface({ input: child.stdio[4] }).on('line', (line) => {
    const { address, bound, name, slots } = JSON.parse(line)
    if (address) running.addresses.push(address)
    else if (bound) running.bound.add(bound)
    else running.slots[name] = slots
  })
  t.after(running.kill)
  return running
}

/**
 * Waits until all workers of a program have their slots: until then clients may move.
 * @param {ReturnType<typeof run>} running
 */
async function served(running) {
  await running.listens()
  const complete = () => {
    const workers = running.workers()
    const tables = Object.values(running.slots)
    return (
      tables.length > 0 && tables.every((pids) => pids.every(Boolean) && workers.every((pid) => pids.includes(pid)))
    )
  }
  await running.until(complete)
}

/**
 * Waits until a program of another package, of which nothing tells when it is ready, answers.
 * @param {ReturnType<typeof run>} running
 */
async function answers(running) {
  const { port } = await running.listens()
  // What reaches a worker too early may never be answered.
  const ask = () => request(port, { path: POLLING, signal: AbortSignal.timeout(500) })
  await running.until(() => ask().then(Boolean, () => false))
}

/** A GET of each client, twice, of which the answers tell the worker. */
async function sticky(running, ask) {
  const seen = new Set()
  for (const client of CLIENTS) {
    const bodies = []
    for (let n = 0; n < 2; n++) {
      const { status, body } = await ask(client)
      assert.equal(status, 200, body)
      bodies.push(body)
    }
    assert.equal(bodies[0], bodies[1], `${client} did not stay at one worker`)
    const pid = Number(bodies[0].match(/worker (\d+)/)?.[1])
    assert.ok(running.workers().includes(pid), `no worker of this program answered ${client}: ${bodies[0]}`)
    seen.add(pid)
  }
  return seen
}

/** How a program is asked. Each shows that one of its workers answers. */
const WAYS = {
  async http(running) {
    const { port } = await running.listens()
    await sticky(running, (localAddress) => request(port, { localAddress }))
  },
  /** How a proxy asks, on two ports more. */
  async health(running) {
    await WAYS.http(running)
    const { status } = await request((await running.listens(1)).port, { path: '/health' })
    assert.equal(status, 200)
    assert.equal(await readAll(net.connect((await running.listens(2)).port, '127.0.0.1')), 'up 100%\n')
  },
  async 'second port'(running) {
    const [{ port }, { port: second }] = [await running.listens(0), await running.listens(1)]
    await sticky(running, (localAddress) => request(port, { localAddress }))
    await sticky(running, (localAddress) => request(second, { localAddress }))
  },
  /** Each client is named by a header. */
  async 'behind a proxy'(running) {
    const { port } = await running.listens()
    await sticky(running, (client) => request(port, { headers: { 'x-forwarded-for': client } }))
  },
  async 'behind a proxy on a path'(running) {
    const socketPath = await running.listens()
    await sticky(running, (client) => request(0, { socketPath, headers: { 'x-forwarded-for': client } }))
  },
  async 'proxy protocol'(running) {
    const { port } = await running.listens()
    await sticky(running, async (client) => {
      const socket = net.connect(port, '127.0.0.1')
      socket.write(`PROXY TCP4 ${client} 127.0.0.1 4000 80\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`)
      const text = await readAll(socket)
      return { status: Number(text.match(/^HTTP\/1\.\d (\d+)/)?.[1]), body: text.slice(text.indexOf('\r\n\r\n') + 4) }
    })
  },
  async https(running) {
    const { port } = await running.listens()
    await sticky(
      running,
      (localAddress) =>
        new Promise((resolve, reject) => {
          const options = { port, host: '127.0.0.1', localAddress, rejectUnauthorized: false, agent: false }
          const sent = https.get(options, async (response) => {
            resolve({ status: response.statusCode, body: await readAll(response) })
          })
          sent.on('error', reject)
        }),
    )
  },
  /** Who keeps the cookie of the first response stays at its worker, whatever its address. */
  async cookies(running) {
    const { port } = await running.listens()
    for (const client of CLIENTS) {
      const first = await request(port, { localAddress: client })
      const [cookie] = first.headers['set-cookie'][0].split(';')
      const others = CLIENTS.map((localAddress) => request(port, { localAddress, headers: { cookie } }))
      for (const { status, body, headers } of await Promise.all(others)) {
        assert.deepEqual({ status, body }, { status: 200, body: first.body })
        assert.equal(headers['set-cookie'], undefined)
      }
    }
  },
  /** A session of long-polling, whose second request comes from another address. */
  'session ids': (running) => WAYS['socket.io'](running, undefined, (n) => CLIENTS[(n + 1) % CLIENTS.length]),
  /** A session of long-polling, whose second request only its own worker understands. */
  async 'socket.io'(running, before, secondAddress = (n) => CLIENTS[n]) {
    const { port } = await running.listens()
    const get = async (localAddress, query) => {
      const agent = new http.Agent({ keepAlive: false })
      return request(port, { localAddress, agent, path: POLLING + query })
    }
    for (const [n, client] of CLIENTS.entries()) {
      const opened = await get(client, '')
      assert.equal(opened.status, 200, opened.body)
      const { sid } = JSON.parse(opened.body.slice(1))
      if (before === '@socket.io/sticky') await running.until(() => running.bound.has(sid))
      const posted = await request(port, {
        localAddress: secondAddress(n),
        method: 'POST',
        path: `${POLLING}&sid=${sid}`,
        headers: { 'content-type': 'text/plain' },
        body: '40',
      })
      assert.equal(posted.status, 200, posted.body)
    }
  },
}

/**
 * Runs a program of a page and shows that it does what it is there for.
 * @param {import('node:test').TestContext} t
 * @param {ReturnType<typeof programsOf>[number]} program
 */
async function check(t, { files, kind, value, asked = 'http' }) {
  if (kind === 'before' && !fs.existsSync(BENCH)) {
    for (const text of files.values()) new vm.Script(text)
    t.skip('only parsed: other packages come with the bench: npm run setup:bench')
    return
  }
  const folder = place(t, files, kind === 'before' ? value : undefined)
  if (asked === 'https') selfSigned(folder)
  const running = run(t, folder, { file: files.has('cluster.mjs') ? 'cluster.mjs' : 'cluster.js' })
  if (kind.endsWith('throws')) {
    await running.until(() => running.output.includes(value))
    assert.match(running.output, new RegExp(`\\b${value}\\b`))
    return
  }
  assert.ok(WAYS[asked], `no test asks "${asked}"`)
  await (kind === 'before' ? answers(running) : served(running))
  await WAYS[asked](running, value)
  if (files.get('cluster.js')?.includes('SIGTERM')) {
    const workers = running.workers()
    signal(running.child.pid, 'SIGTERM')
    assert.deepEqual(await running.exited, { code: 0, by: null }, running.output)
    await until(() => workers.every((pid) => !fs.existsSync(`/proc/${pid}`)))
  }
}

module.exports = { check, place, programsOf, run, served, sticky }
