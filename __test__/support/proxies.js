'use strict'

// Real proxies, with the configurations of examples/proxies: what is documented is what is tested.
//
// STICKY_TEST_REQUESTS: how many requests a pool is measured with once it has settled, 2,000 by default.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { json } = require('node:stream/consumers')
const { loopback, parallel, until } = require('./client')
const { directory, freePort } = require('./places')
const { balanced, descendants, signal } = require('./process')

const EXAMPLES = path.join(__dirname, '..', '..', 'examples', 'proxies')

// Every address that the files name, and what cannot be shared with another proxy on the machine.
const PROGRAMS = {
  nginx: {
    edits: ({ port, folder }) => [
      ['listen 80;', `listen 127.0.0.1:${port};`],
      // Of a configuration for http; a stream has no such files.
      [
        /^http \{/m,
        `http { access_log off; ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
          .map((name) => `${name}_temp_path ${folder}/${name};`)
          .join(' ')}`,
      ],
    ],
    args: (config, folder) => ['-c', config, '-p', folder, '-e', 'stderr', '-g', `daemon off; pid ${folder}/pid;`],
  },
  haproxy: {
    edits: ({ port }) => [['bind :80', `bind 127.0.0.1:${port}`]],
    args: (config) => ['-db', '-f', config],
  },
  caddy: {
    edits: ({ port }) => [
      [/^:80 \{/m, `:${port} {\n\tbind 127.0.0.1`],
      [/^/, '{\n\tadmin off\n}\n'],
    ],
    args: (config) => ['run', '--adapter', 'caddyfile', '--config', config],
  },
}

/**
 * Starts the proxy of a configuration in front of a balancer.
 * @param {import('node:test').TestContext} t
 * @param {string} file in examples/proxies
 * @param {number} upstream the balancer's port
 * @param {[string, string][]} [changes] of what the file says: these words for those
 * @returns {Promise<number>} the port on which it takes connections
 */
async function startProxy(t, file, upstream, changes = []) {
  const name = file
    .match(/^[a-z]+/i)[0]
    .toLowerCase()
    .replace('caddyfile', 'caddy')
  const { edits, args } = PROGRAMS[name]
  const folder = directory(t)
  // nginx started by root works as somebody else.
  fs.chmodSync(folder, 0o755)
  const port = await freePort('127.0.0.1')
  let text = fs.readFileSync(path.join(EXAMPLES, file), 'utf8')
  for (const [from, to] of changes) text = replace(text, from, to)
  for (const [from, to] of edits({ port, folder })) {
    if (typeof from !== 'string' && !from.test(text)) continue
    text = replace(text, from, to)
  }
  text = replace(
    text,
    /(?<=proxy_pass (http:\/\/)?|server (node )?|reverse_proxy )127\.0\.0\.1:8081/,
    `127.0.0.1:${upstream}`,
  )
  const config = path.join(folder, file)
  fs.writeFileSync(config, text)

  let output = ''
  const child = spawn(find(name), args(config, folder), {
    cwd: folder,
    // Caddy keeps things at home.
    env: { ...process.env, HOME: folder, XDG_CONFIG_HOME: folder, XDG_DATA_HOME: folder },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  let ended = false
  const exited = once(child, 'exit').then(() => {
    ended = true
  })
  t.after(async () => {
    if (!ended) {
      // So that nginx does not replace its workers meanwhile.
      signal(child.pid, 'SIGSTOP')
      for (const pid of [child.pid, ...descendants(child.pid)]) signal(pid, 'SIGKILL')
    }
    await exited
  })
  // There is no event for it; and a connection, to try, would go on to the balancer.
  await until(() => {
    assert.ok(!ended, `${name} ended at once: ${output}`)
    return isListening(port)
  })
  return port
}

/** Replaces what must be there. */
function replace(text, from, to) {
  const replaced = text.replace(from, () => to)
  assert.notEqual(replaced, text, `the configuration does not say ${from}`)
  return replaced
}

/** Where a program is, if it is. */
function find(name) {
  // Not all users have the system's programs in their path.
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin', '/usr/local/sbin']
  return folders.map((folder) => path.join(folder, name)).find((file) => fs.existsSync(file))
}

/** Why these tests cannot run here, if they cannot. In CI, which installs all they need, that is an error. */
function missingProxies() {
  const missing = Object.keys(PROGRAMS).filter((name) => !find(name))
  if (missing.length === 0) return false
  const words = `not installed: ${missing.join(', ')}. On Debian: apt-get install nginx libnginx-mod-stream haproxy caddy`
  if (process.env.CI) throw new Error(words)
  return words
}

/** Whether somebody listens on a port of 127.0.0.1. */
function isListening(port) {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return fs
    .readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .some(([, local, , state]) => local === address && state === '0A')
}

// How many workers there are behind a proxy.
const WORKERS = 4

// A fixed seed, so that who gets which slot is no matter of luck.
const PATIENT = { seed: 'proxies.test.js', maxRetries: 400 }

/** A balancer with its workers, and a proxy in front of it. */
async function proxied(t, { file, changes, worker = 'proxied-worker.js', options, env }) {
  const { primary, port: direct } = await balanced(t, {
    workers: WORKERS,
    worker,
    options: { ...PATIENT, ...options },
    env,
  })
  const port = await startProxy(t, file, direct, changes)
  return { primary, direct, port }
}

/** One request of the nth client to a proxied-worker.js, and what that says. */
function ask(port, n, { agent = false, path = '/', headers, localAddress = loopback(n) } = {}) {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path, agent, localAddress, headers: { 'x-test-client': n, ...headers } }
    const sent = http.get(options, (response) => {
      const { localPort } = response.socket
      const { statusCode: status } = response
      json(response).then((answer) => resolve({ status, localPort, ...answer }), reject)
    })
    sent.on('error', reject)
  })
}

// Proxies that keep a pool of connections, and what is to be changed in their files for it.
const POOLS = [
  ['nginx-pooled.conf', []],
  // What HAProxy does by itself.
  ['haproxy-x-forwarded-for.cfg', [['option http-server-close', '']]],
]

/** How many clients share a pool. */
const SHARING = 100
const SETTLING = 500
const MEASURED = Number(process.env.STICKY_TEST_REQUESTS ?? 2000)

// Where more than a hundred requests in a second are made, as anywhere.
const POOL_TIMEOUT = 60_000 + 10 * MEASURED

const percent = (share) => `${(100 * share).toFixed(2)} %`

/**
 * The shares of requests that go astray when many clients share a pool; first while it settles, then from there on.
 * @param {import('node:test').TestContext} t
 * @param {number} port the proxy's
 * @param {(n: number, ask: (request?: { path?: string, headers?: object }) => Promise<any>) => Promise<boolean>} goesAstray
 *   asks as the nth client
 */
async function measurePool(t, port, goesAstray) {
  const agents = Array.from({ length: SHARING }, () => new http.Agent({ keepAlive: true, maxSockets: 1 }))
  t.after(() => {
    for (const agent of agents) agent.destroy()
  })
  const share = async (requests) => {
    let astray = 0
    await parallel(requests, 16, async (request) => {
      // Not in turn, as that could keep step with the pool.
      const n = (request * 37) % SHARING
      const asked = await goesAstray(n, async (request) => {
        const answer = await ask(port, n, { agent: agents[n], ...request })
        assert.equal(answer.status, 200)
        return answer
      })
      if (asked) astray++
    })
    return astray / requests
  }
  const first = await share(SETTLING)
  const settled = await share(MEASURED)
  t.diagnostic(
    `misrouted: ${percent(first)} of the first ${SETTLING} requests, ${percent(settled)} of the next ${MEASURED}`,
  )
  return { first, settled }
}

module.exports = {
  ask,
  measurePool,
  missingProxies,
  percent,
  POOLS,
  POOL_TIMEOUT,
  proxied,
  SHARING,
  startProxy,
  WORKERS,
}
