'use strict'

// Clients with IPv6 addresses, of which loopback has but one: each test runs this file once more in a
// network namespace of its own, where a whole prefix is local and any address of it can be a client's.

const assert = require('node:assert/strict')
const { spawn, spawnSync } = require('node:child_process')
const { createHash } = require('node:crypto')
const { once } = require('node:events')
const { test } = require('node:test')
const { loopback, parallel, request, until } = require('./support/client')
const { descendants, signal, start } = require('./support/process')

// Addresses and slots are the same in every run: what is measured here is no matter of luck.
const SEED = 'ipv6.test.js'
const SLOTS = 4

// Who is never served, and never told so, is waited for no longer than this.
const TIMEOUT = 120_000

/** The nth of a pseudo-random sequence of bytes. */
function random(n, bytes) {
  return createHash('sha256').update(`${SEED} ${n}`).digest().subarray(0, bytes)
}

/** An address of the namespace's prefix, from the 12 bytes that follow it. */
function address(bytes) {
  const groups = bytes.toString('hex').match(/.{4}/g)
  return ['2001', 'db8', ...groups.map((group) => group.replace(/^0+(?=.)/, ''))].join(':')
}

/** Random addresses that are long when written: all that the original sent to slot 0. */
function longAddresses(count) {
  const addresses = []
  for (let n = 0; addresses.length < count; n++) {
    const candidate = address(random(n, 12))
    if (candidate.length >= 34) addresses.push(candidate)
  }
  return addresses
}

/** A balancer with all its slots served. */
async function balanced(t, host, options) {
  const primary = start(t, 'primary.js', {
    args: [{ workers: SLOTS, options: { seed: SEED, maxRetries: 400, ...options } }],
  })
  const { port } = await primary.call('listen', 0, host)
  const pids = await until(async () => {
    const { slots } = await primary.call('stats')
    const pids = slots.map(({ pid }) => pid)
    return pids.length === SLOTS && pids.every(Boolean) && pids
  })
  return { port, pids }
}

/** For each client the slot that serves it, every time that it connects. */
async function slotsOf({ port, pids }, clients, { host = '2001:db8::1', times = 3 } = {}) {
  const slots = clients.map(() => new Set())
  await parallel(times * clients.length, 16, async (n) => {
    const client = n % clients.length
    const { status, body } = await request(port, { host, localAddress: clients[client] })
    assert.equal(status, 200)
    slots[client].add(pids.indexOf(Number(body)))
  })
  return slots.map((seen, client) => {
    assert.equal(seen.size, 1, `${clients[client]} reached slots ${[...seen]}`)
    const [slot] = seen
    assert.notEqual(slot, -1)
    return slot
  })
}

const PROPERTIES = {
  async 'guarantee 2, even: 2,000 random full-length IPv6 clients on 4 workers, and none of them moves'(t) {
    const balancer = await balanced(t, '::')
    const clients = longAddresses(2000)
    const counts = new Array(SLOTS).fill(0)
    for (const slot of await slotsOf(balancer, clients)) counts[slot]++
    const expected = clients.length / SLOTS
    const chiSquare = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
    // The upper 0.1 % point for 3 degrees of freedom.
    assert.ok(chiSquare < 16.3, `chi-square is ${chiSquare} for ${counts}`)
  },

  async 'ipv6Prefix: 64 makes one client of all addresses of a /64, and 128 does not'(t) {
    const NETS = 24
    const HOSTS = 12
    const clients = Array.from({ length: NETS * HOSTS }, (_, n) =>
      address(Buffer.concat([random(`net ${n % NETS}`, 4), random(`host ${n}`, 8)])),
    )
    /** How many slots the addresses of each net have between them. */
    const spread = async (options) => {
      const slots = await slotsOf(await balanced(t, '::', options), clients, { times: 1 })
      const seen = Array.from({ length: NETS }, () => new Set())
      for (const [n, slot] of slots.entries()) seen[n % NETS].add(slot)
      assert.equal(new Set(slots).size, SLOTS)
      return seen.map(({ size }) => size)
    }
    assert.deepEqual(await spread({ ipv6Prefix: 64 }), new Array(NETS).fill(1))
    for (const size of await spread()) assert.ok(size > 1)
  },

  async 'guarantee 1, sticky: an IPv4 client of a balancer on :: has the slot it has on 127.0.0.1'(t) {
    const clients = Array.from({ length: 60 }, (_, n) => loopback(n - 1))
    assert.equal(clients[0], '127.0.0.1')
    const v4 = { host: '127.0.0.1', times: 1 }
    const slots = await slotsOf(await balanced(t, '127.0.0.1'), clients, v4)
    assert.equal(new Set(slots).size, SLOTS)
    assert.deepEqual(await slotsOf(await balanced(t, '::'), clients, v4), slots)
    // All IPv4-mapped addresses are of one /64: they are no IPv6 clients.
    assert.deepEqual(await slotsOf(await balanced(t, '::', { ipv6Prefix: 64 }), clients, v4), slots)
  },
}

// From here on: how to get there.

const SET_UP = `
  ip link set lo up
  ip -6 route add local 2001:db8::/32 dev lo
  echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind
  exec "$@"
`

/** The command that runs another one in a namespace. */
const inNamespace = (flags, ...command) => ['unshare', flags, '--', 'sh', '-ec', SET_UP, 'sh', ...command]

/** How this machine makes a namespace, or why it does not. */
function probe() {
  const reasons = []
  // As root, or as root of a user namespace.
  for (const flags of ['-n', '-rn']) {
    const [command, ...args] = inNamespace(flags, 'true')
    const { status, error, stderr } = spawnSync(command, args, { encoding: 'utf8' })
    if (status === 0) return { flags }
    reasons.push(`unshare ${flags}: ${error?.message ?? stderr.trim()}`)
  }
  return { reason: `no network namespace with IPv6 can be made here (${reasons.join('; ')})` }
}

/** Runs one property of this file in a namespace. */
async function runThere(t, name, flags) {
  // Without what the test runner tells its own children, so that it prints what people can read.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const [command, ...args] = inNamespace(flags, process.execPath, __filename)
  const child = spawn(command, args, {
    env: { ...env, STICKY_TEST_PROPERTY: name },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(() => {
    if (child.exitCode !== null || child.signalCode !== null) return
    for (const pid of [...descendants(child.pid), child.pid]) signal(pid, 'SIGKILL')
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  const [code, killedBy] = await once(child, 'close')
  assert.ok(code === 0, `in the namespace (${code ?? killedBy}):\n${output}`)
}

const property = process.env.STICKY_TEST_PROPERTY
if (property) {
  test(property, { timeout: TIMEOUT }, PROPERTIES[property])
} else {
  const { flags, reason } = probe()
  // Where nobody looks at skipped tests, a machine that could run them and does not is a fault.
  const skip = reason && !(process.env.CI && process.platform === 'linux') ? reason : false
  for (const name of Object.keys(PROPERTIES)) {
    test(name, { skip, timeout: 2 * TIMEOUT }, async (t) => {
      if (reason) assert.fail(reason)
      await runThere(t, name, flags)
    })
  }
}
