'use strict'

// Starts what makes a fleet on one machine, and stops it: Redis and its replica, three hosts, and HAProxy in front. A host
// is a network namespace of its own where that is allowed, and else an address of loopback. In the place of this file, a
// fleet has machines, and on each systemd or another manager that starts host.js again when it fails (Restart=on-failure).
// Not whenever it ends: a version that was superseded would take over again, from the one that had superseded it.

const { execFileSync, spawn } = require('node:child_process')
const { randomBytes } = require('node:crypto')
const { EventEmitter, once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

const NAMES = ['h1', 'h2', 'h3']
const CONFIG = path.join(__dirname, 'haproxy.cfg')

// Redis, and its replica until Sentinel promotes it. Of three Sentinels two have to agree.
const REDIS = ['r1', 'r2']
const SENTINELS = ['s1', 's2', 's3']
const QUORUM = 2

// How long Redis may be silent before its replica takes its place, in milliseconds. Sentinel's default is 30 s.
const SILENCE = 2000

// Of the hosts' network, where it is one of namespaces.
const NETWORK = '10.99.0'

// Before a host's program is started again, in milliseconds.
const RESTART = 100

/**
 * @typedef {object} Host
 * @property {string} name
 * @property {string} address
 * @property {string | undefined} namespace
 * @property {import('node:child_process').ChildProcess | undefined} primary the latest version of its program
 * @property {Set<number>} groups of processes: one for each version that has not ended
 * @property {boolean} wanted
 * @property {boolean} ready
 */

/** Emits 'log' with a line for people. */
class Fleet extends EventEmitter {
  #options
  #folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-fleet-'))
  #seed = randomBytes(16).toString('hex')
  #password = randomBytes(16).toString('hex')
  #ports = { app: 8081, health: 8082, agent: 8083 }
  #namespaces = []
  /** @type {Record<string, { port: number, process?: import('node:child_process').ChildProcess }>} */
  #redis = {}
  #redisHost = '127.0.0.1'
  #haproxy
  #stopped = false
  /** @type {Host[]} */
  hosts = []

  /**
   * @param {object} [options]
   * @param {number} [options.port] of HAProxy, on 127.0.0.1; 0 for any
   * @param {boolean} [options.namespaces]
   * @param {number} [options.workers] of each host
   * @param {number} [options.grace] how long sessions may keep a worker that is to go, in milliseconds
   */
  constructor({ port = 0, namespaces = false, workers = 2, grace = 30_000 } = {}) {
    super()
    this.#options = { port, namespaces, workers, grace }
  }

  async start() {
    const { namespaces } = this.#options
    // Three addresses that no other fleet of this machine has.
    const [a, b] = randomBytes(2)
    const prefix = namespaces ? NETWORK : `127.${64 + (a % 128)}.${b}`
    this.hosts = NAMES.map((name, n) => ({
      name,
      address: `${prefix}.${11 + n}`,
      namespace: undefined,
      primary: undefined,
      groups: new Set(),
      wanted: false,
      ready: false,
    }))
    this.port = this.#options.port || (await freePort('127.0.0.1'))
    if (namespaces) this.#connectNamespaces()
    else for (const kind of Object.keys(this.#ports)) this.#ports[kind] = await freePort(this.hosts[0].address)
    if (namespaces) this.#redisHost = `${NETWORK}.1`
    for (const [n, name] of [...REDIS, ...SENTINELS].entries()) {
      this.#redis[name] = { port: namespaces ? 6379 + n : await freePort(this.#redisHost) }
    }
    for (const name of REDIS) await this.startRedis(name)
    for (const name of SENTINELS) await this.#startSentinel(name)
    await Promise.all(this.hosts.map((host) => this.startHost(host)))
    await this.#startProxy()
  }

  /** Redis as server.js wants to know it, for who does not ask Sentinel: the first one, until it is replaced. */
  get redisAlone() {
    return { REDIS: this.#redisAddress(REDIS[0]), REDIS_PASSWORD: this.#password }
  }

  /** The same for the hosts. */
  get #redisEnvironment() {
    return { REDIS_SENTINELS: SENTINELS.map((name) => this.#redisAddress(name)).join(), REDIS_PASSWORD: this.#password }
  }

  #redisAddress(name) {
    return `${this.#redisHost}:${this.#redis[name].port}`
  }

  get url() {
    return `http://127.0.0.1:${this.port}`
  }

  // ---- Hosts ----

  /**
   * Starts a host's program; beside the one that runs, if one does, in whose place it then serves.
   * @param {Host} host
   */
  async startHost(host) {
    host.wanted = true
    const { workers, grace } = this.#options
    const primary = this.#spawn(host.namespace, process.execPath, [path.join(__dirname, 'host.js')], {
      NAME: host.name,
      ADDRESS: host.address,
      PORT: `${this.#ports.app}`,
      HEALTH_PORT: `${this.#ports.health}`,
      AGENT_PORT: `${this.#ports.agent}`,
      WORKERS: `${workers}`,
      STICKY_SEED: this.#seed,
      ...this.#redisEnvironment,
      TAKE_OVER: path.join(this.#folder, `${host.name}.sock`),
      GRACE: `${grace}`,
    })
    const before = host.primary
    host.primary = primary
    host.ready = false
    host.groups.add(primary.pid)
    primary.once('exit', (code, signal) => {
      // Who ends by itself has waited for its workers; whose primary was killed may have left some.
      if (code === 0) host.groups.delete(primary.pid)
      if (code === 0 || this.#stopped || !host.wanted || host.primary !== primary) return
      this.emit('log', `${host.name} failed (${signal ?? code}), and is started again.`)
      setTimeout(() => !this.#stopped && host.wanted && this.startHost(host).catch(() => {}), RESTART)
    })
    await Promise.race([
      once(primary, 'message'),
      once(primary, 'exit').then(() => {
        throw new Error(`${host.name} ended before it was ready`)
      }),
    ])
    host.ready = true
    this.emit('log', `${host.name} serves${before ? ' again' : ` at ${host.address}:${this.#ports.app}`}.`)
  }

  /**
   * Ends a host as a machine ends that loses its power: all its processes at once.
   * @param {Host} host
   */
  async killHost(host) {
    host.wanted = false
    const ended = host.primary?.exitCode === null && host.primary?.signalCode === null && once(host.primary, 'exit')
    for (const group of host.groups) signal(-group, 'SIGKILL')
    host.groups.clear()
    await ended
  }

  /**
   * Pulls a host's cable, or puts it in again. Of a namespace only.
   * @param {Host} host
   * @param {boolean} up
   */
  setLink(host, up) {
    ip(['-n', this.#namespaces[0], 'link', 'set', host.name, up ? 'up' : 'down'])
  }

  // ---- Redis ----

  /**
   * Starts one of the two. Which of them is the replica is up to Sentinel from then on, which writes it down in their files.
   * @param {string} name
   */
  async startRedis(name) {
    const folder = path.join(this.#folder, name)
    const config = path.join(folder, 'redis.conf')
    if (!fs.existsSync(folder)) {
      fs.mkdirSync(folder)
      // What is in the stream, and who may come back, outlives Redis: appendonly.
      const lines = ['save ""', 'appendonly yes', `dir ${folder}`, `masterauth ${this.#password}`]
      const [first] = REDIS
      if (name !== first) lines.push(`replicaof ${this.#redisHost} ${this.#redis[first].port}`)
      this.#configure(config, name, lines)
    }
    await this.#runRedis(name, [config], 'Ready to accept connections')
  }

  /** @param {string} name */
  async #startSentinel(name) {
    const config = path.join(this.#folder, `${name}.conf`)
    const [first] = REDIS
    this.#configure(config, name, [
      `sentinel monitor fleet ${this.#redisHost} ${this.#redis[first].port} ${QUORUM}`,
      `sentinel auth-pass fleet ${this.#password}`,
      `sentinel sentinel-pass ${this.#password}`,
      `sentinel down-after-milliseconds fleet ${SILENCE}`,
      `sentinel failover-timeout fleet ${5 * SILENCE}`,
    ])
    await this.#runRedis(name, [config, '--sentinel'], '+monitor')
  }

  /** In a file, as everybody can read the arguments of a process. */
  #configure(file, name, lines) {
    const own = [`bind ${this.#redisHost}`, `port ${this.#redis[name].port}`, `requirepass ${this.#password}`]
    fs.writeFileSync(file, [...own, ...lines, ''].join('\n'), { mode: 0o600 })
  }

  async #runRedis(name, args, ready) {
    const child = this.#spawn(this.#namespaces[0], find('redis-server'), args)
    this.#redis[name].process = child
    await waitFor(child, ready)
  }

  /** @param {string} name */
  async killRedis(name) {
    const { process: child } = this.#redis[name]
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  /** The name of the one that is no replica, as a Sentinel sees it. */
  redisMaster() {
    const { port } = this.#redis[SENTINELS[0]]
    const within = this.#namespaces[0] ? [find('ip'), 'netns', 'exec', this.#namespaces[0]] : []
    const ask = [
      find('redis-cli'),
      '-h',
      this.#redisHost,
      '-p',
      `${port}`,
      'sentinel',
      'get-master-addr-by-name',
      'fleet',
    ]
    const [command, ...args] = [...within, ...ask]
    const env = { ...process.env, REDISCLI_AUTH: this.#password }
    const [, master] = execFileSync(command, args, { env, encoding: 'utf8' }).trim().split('\n')
    return REDIS.find((name) => this.#redis[name].port === Number(master))
  }

  // ---- HAProxy ----

  async #startProxy() {
    const servers = this.hosts.map(({ name, address }) => [name.toUpperCase(), `${address}:${this.#ports.app}`])
    this.#haproxy = this.#spawn(undefined, find('haproxy'), ['-db', '-f', CONFIG], {
      FOLDER: this.#folder,
      BIND: `127.0.0.1:${this.port}`,
      HEALTH_PORT: `${this.#ports.health}`,
      AGENT_PORT: `${this.#ports.agent}`,
      ...Object.fromEntries(servers),
      SERVER_OPTIONS: this.#namespaces[0] ? `namespace ${this.#namespaces[0]}` : '',
    })
    // There is no event for it. Its own socket is the last that it opens.
    while (!(await this.proxyStates().catch(() => undefined))) {
      if (this.#haproxy.exitCode !== null) throw new Error('HAProxy ended before it was ready')
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  /** Says something to HAProxy's own socket, and returns the answer. */
  askProxy(command) {
    return askProxy(this.#folder, command)
  }

  /** How HAProxy sees the hosts. */
  proxyStates() {
    return proxyStates(this.#folder)
  }

  // ---- Processes and namespaces ----

  async stop() {
    this.#stopped = true
    await Promise.all(this.hosts.map((host) => this.killHost(host)))
    for (const child of [this.#haproxy, ...Object.values(this.#redis).map(({ process: child }) => child)]) {
      if (!child || child.exitCode !== null || child.signalCode !== null) continue
      child.kill('SIGKILL')
      await once(child, 'exit')
    }
    for (const namespace of this.#namespaces) ip(['netns', 'del', namespace])
    fs.rmSync(this.#folder, { recursive: true, force: true })
  }

  /** A switch, to which Redis is connected, and a cable to each host. Nothing of it is in the machine's own network. */
  #connectNamespaces() {
    // What a fleet left that was killed.
    for (const [left, pid] of ip(['netns', 'list']).matchAll(/^fleet(\d+)-\w+/gm)) {
      if (!fs.existsSync(`/proc/${pid}`)) ip(['netns', 'del', left])
    }
    const name = (of) => `fleet${process.pid}-${of}`
    const add = (of) => {
      ip(['netns', 'add', name(of)])
      this.#namespaces.push(name(of))
      ip(['-n', name(of), 'link', 'set', 'lo', 'up'])
      return name(of)
    }
    const center = add('net')
    ip(['-n', center, 'link', 'add', 'switch', 'type', 'bridge'])
    ip(['-n', center, 'addr', 'add', `${NETWORK}.1/24`, 'dev', 'switch'])
    ip(['-n', center, 'link', 'set', 'switch', 'up'])
    for (const host of this.hosts) {
      host.namespace = add(host.name)
      ip(['-n', center, 'link', 'add', host.name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', host.namespace])
      ip(['-n', center, 'link', 'set', host.name, 'master', 'switch', 'up'])
      ip(['-n', host.namespace, 'addr', 'add', `${host.address}/24`, 'dev', 'eth0'])
      ip(['-n', host.namespace, 'link', 'set', 'eth0', 'up'])
    }
  }

  /** A process that does not outlive this one; Node's programs see to that themselves. */
  #spawn(namespace, program, args, env) {
    const node = program === process.execPath
    const command = [
      ...(namespace ? [find('ip'), 'netns', 'exec', namespace] : []),
      ...(node ? [] : [find('setpriv'), '--pdeathsig', 'KILL']),
      program,
      ...args,
    ]
    const child = spawn(command[0], command.slice(1), {
      env: { ...process.env, ...env },
      stdio: node ? ['ignore', 'pipe', 'pipe', 'ipc'] : ['ignore', 'pipe', 'pipe'],
      // A group, so that a host ends with all its workers; and Ctrl+C in a terminal ends what run.js ends.
      detached: true,
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => this.emit('output', text, program))
    }
    return child
  }
}

/** Says something to the own socket of the HAProxy that has this folder, and returns the answer. */
async function askProxy(folder, command) {
  const socket = net.connect(path.join(folder, 'haproxy.sock'))
  socket.end(`${command}\n`)
  let text = ''
  for await (const chunk of socket) text += chunk
  return text
}

/** How it sees the hosts, and how many new clients each is to get: 'UP 100%', 'UP 0%', 'DOWN 100%'; by their names. */
async function proxyStates(folder) {
  const lines = (await askProxy(folder, 'show stat -1 4 -1')).trim().split('\n')
  const fields = lines[0].replace('# ', '').split(',')
  const rows = lines.slice(1).map((line) => line.split(','))
  const [name, status, weight] = ['svname', 'status', 'weight'].map((field) => fields.indexOf(field))
  return Object.fromEntries(rows.map((row) => [row[name], `${row[status]} ${row[weight]}%`]))
}

/** Waits until a program has said something. */
async function waitFor(child, words) {
  let said = ''
  await new Promise((resolve, reject) => {
    child.stdout.on('data', (text) => {
      said += text
      if (said.includes(words)) resolve()
    })
    child.once('exit', () => reject(new Error(`${path.basename(child.spawnfile)} ended: ${said}`)))
  })
}

/** A port of that address on which nobody listens. */
async function freePort(host) {
  const server = net.createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = /** @type {net.AddressInfo} */ (server.address())
  server.close()
  await once(server, 'close')
  return port
}

function ip(args) {
  return execFileSync(find('ip'), args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' })
}

function signal(pid, name) {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}

/**
 * Where a program is. Not all users have the system's programs in their path.
 * @param {string} name
 */
function find(name) {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin', '/sbin', '/usr/local/sbin']
  const found = folders.map((folder) => path.join(folder, name)).find((file) => fs.existsSync(file))
  if (!found) throw new Error(`${name} is not installed. On Debian: apt-get install redis-server haproxy iproute2`)
  return found
}

/** Why a fleet cannot be started here, or undefined. */
function missing() {
  try {
    for (const program of ['redis-server', 'redis-cli', 'haproxy', 'setpriv']) find(program)
  } catch (error) {
    return error.message
  }
  if (!fs.existsSync(path.join(__dirname, 'node_modules'))) return 'its packages are not installed: npm run setup:fleet'
}

module.exports = { CONFIG, Fleet, askProxy, find, freePort, missing, proxyStates }
