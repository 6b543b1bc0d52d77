'use strict'

// What SECURITY.md says of other users, of workers and of clients, where no other test shows it.

const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { connect, loopback, parallel, request, until } = require('./support/client')
const { hello } = require('./support/frames')
const { directory } = require('./support/places')
const { PATIENT, balanced, fdCount, start } = require('./support/process')
const { kernelSteers } = require('./support/steering')
const { has } = require('./support/tools')
const { balancing, served, worker } = require('./support/worker-server')

/** The rows of a table of the system's, such as net/tcp. */
const rows = (pid, table) =>
  fs
    .readFileSync(`/proc/${pid}/net/${table}`, 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))

/** What a process has open: the files that it may write, and the numbers of sockets. */
function opened(pid) {
  const links = fs.readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return [[fd, fs.readlinkSync(`/proc/${pid}/fd/${fd}`)]]
    } catch {
      // Closed meanwhile.
      return []
    }
  })
  const sockets = links.flatMap(([, to]) => /^socket:\[(\d+)\]$/.exec(to)?.[1] ?? [])
  // What it only reads is Node's: certificates, say.
  const writes = (fd) => {
    try {
      const [, flags] = /^flags:\s*(\d+)$/m.exec(fs.readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))
      return (Number.parseInt(flags, 8) & (fs.constants.O_WRONLY | fs.constants.O_RDWR)) !== 0
    } catch {
      return false
    }
  }
  const files = links.flatMap(([fd, to]) => (to.startsWith('/') && writes(fd) ? [to] : []))
  return { links, files, sockets }
}

/** The addresses at which a process could be reached: of TCP, UDP, and unix sockets with a name. */
function reachable(pid) {
  const { sockets } = opened(pid)
  const LISTENS = '0A'
  const internet = ['tcp', 'tcp6', 'udp', 'udp6', 'raw', 'raw6'].flatMap((table) =>
    rows(pid, table).flatMap(([, local, , state, , , , , , inode]) =>
      sockets.includes(inode) && (state === LISTENS || !table.startsWith('tcp')) ? [`${table} ${local}`] : [],
    ),
  )
  // An abstract name begins with @.
  const unix = rows(pid, 'unix').flatMap(([, , , , , , inode, name]) =>
    name && sockets.includes(inode) ? [`unix ${name}`] : [],
  )
  return [...internet, ...unix]
}

const hex = (port) => port.toString(16).toUpperCase().padStart(4, '0')

for (const [what, options] of [
  ['by address', {}],
  ['behind a proxy', { behindProxy: true }],
  ['by session', { affinity: { query: 'sid' } }],
]) {
  test(`neither primary nor worker is reachable but at the port that was asked for: clients ${what}`, async (t) => {
    const { primary, port } = await balanced(t, { workers: 3, options: { ...PATIENT, ...options } })
    await parallel(60, 8, async (n) => assert.equal((await request(port, { localAddress: loopback(n) })).status, 200))
    const own = `tcp 0100007F:${hex(port)}`
    const lent = kernelSteers && what === 'by address'
    // Once for each slot where the kernel steers.
    await until(() => reachable(primary.pid).length === (lent ? 3 : 1))
    assert.deepEqual(new Set(reachable(primary.pid)), new Set([own]))
    const pids = await primary.call('pids')
    const listening = new Set()
    for (const pid of pids) {
      // Its own slot's, once it has that, and nobody else's.
      await until(() => reachable(pid).length === (lent ? 1 : 0))
      assert.deepEqual(reachable(pid), lent ? [own] : [])
      const sockets = new Set(opened(pid).sockets)
      for (const [, , , , , , , , , inode] of rows(pid, 'tcp')) if (sockets.has(inode)) listening.add(inode)
    }
    if (lent) assert.equal(listening.size, pids.length)
    // Nor is anything of it in the file system.
    const inherited = opened(process.pid).files
    for (const pid of [primary.pid, ...pids]) {
      const files = opened(pid).files.filter((file) => !inherited.includes(file))
      for (const file of files) assert.match(file, /^\/(dev\/|memfd:sticky-listen \(deleted\)$)/)
    }
  })
}

test('a balancer at a path is reachable at that path alone', async (t) => {
  const at = path.join(directory(t), 'socket')
  const primary = start(t, 'primary.js', { args: [{ options: PATIENT }] })
  await primary.call('listen', at)
  await until(async () => (await primary.call('stats')).slots.every(({ pid }) => pid))
  for (let n = 0; n < 20; n++) assert.equal((await request(undefined, { socketPath: at })).status, 200)
  // A connection to a unix socket shows the name of that, and the primary closes its copies a few milliseconds later.
  assert.deepEqual([...new Set(reachable(primary.pid))], [`unix ${at}`])
  for (const pid of await primary.call('pids')) {
    assert.ok(reachable(pid).every((name) => name === `unix ${at}`))
  }
})

/** Runs a program, and returns what it says. */
function runAs(user, program, ...args) {
  const env = { ...process.env, LC_ALL: 'C' }
  const { status, stdout, stderr, error } = spawnSync(program, args, { ...user, env, encoding: 'utf8' })
  assert.ifError(error)
  return { status, said: stdout + stderr }
}

const NOBODY = { uid: 65_534, gid: 65_534 }
const asNobody = (...args) => runAs(NOBODY, ...args)

const notRoot = process.getuid?.() === 0 ? false : 'only root can act as another user'

test('another user can open nothing that primary or worker have open', { skip: notRoot }, async (t) => {
  const { primary, port } = await balanced(t, { options: PATIENT })
  for (let n = 0; n < 20; n++) await request(port, { localAddress: loopback(n) })
  for (const pid of [primary.pid, ...(await primary.call('pids'))]) {
    // With the memory that they share.
    const { links } = await until(() => {
      const all = opened(pid)
      return (!kernelSteers || all.links.some(([, to]) => to.startsWith('/memfd:'))) && all
    })
    assert.match(asNobody('ls', `/proc/${pid}/fd/`).said, /Permission denied/)
    for (const [fd] of links) {
      const { status, said } = asNobody('cat', `/proc/${pid}/fd/${fd}`)
      assert.equal(status, 1)
      assert.match(said, /Permission denied/)
    }
  }
})

// Asks for a port of 127.0.0.1 by all means that share one.
const BIND = `
  use Socket;
  socket(my $s, PF_INET, SOCK_STREAM, 0) or die;
  setsockopt($s, SOL_SOCKET, $_, 1) or die for SO_REUSEADDR, SO_REUSEPORT;
  bind($s, sockaddr_in($ARGV[0], inet_aton('127.0.0.1'))) or die "bind: $!\\n";`
const IN_USE = { status: 98, said: 'bind: Address already in use\n' }

test('another user cannot listen at the port as well', { skip: notRoot }, async (t) => {
  if (!has(t, 'perl')) return
  const { port } = await balanced(t, { options: PATIENT })
  assert.deepEqual(asNobody('perl', '-e', BIND, port), IN_USE)
  assert.equal(asNobody('perl', '-e', BIND, 0).status, 0)
})

test('another process of the same user cannot either, but where the kernel steers', async (t) => {
  if (!has(t, 'perl')) return
  for (const steering of ['auto', 'handover']) {
    const { port } = await balanced(t, { options: { ...PATIENT, steering } })
    const joins = steering === 'auto' && kernelSteers
    assert.deepEqual(runAs({}, 'perl', '-e', BIND, port), joins ? { status: 0, said: '' } : IN_USE)
  }
})

for (const [when, early] of [
  ['from the beginning', true],
  ['since it listens', false],
]) {
  const skip = notRoot || (kernelSteers ? false : 'the kernel does not steer')
  test(`a worker that is another user ${when} has no listening socket, and gets its clients all the same`, {
    skip,
  }, async (t) => {
    const workers = [await worker(t, 'http'), await worker(t, 'http')]
    const [other, own] = workers
    if (early) await other.call('become', NOBODY)
    for (const each of workers) await each.call('listen', 'server')
    const balancer = await balancing(t, workers)
    await served(balancer)
    const { port } = balancer.address()
    await until(() => reachable(own.pid).length === 1)
    if (!early) {
      await until(() => reachable(other.pid).length === 1)
      await other.call('become', NOBODY)
    }
    const all = async () => {
      await parallel(60, 8, async (n) => {
        const { pid } = balancer.slotOf(loopback(n))
        assert.equal((await request(port, { localAddress: loopback(n) })).body, `${pid}`)
      })
    }
    await all()
    // Looked at about once a second, while connections come.
    await until(() => reachable(other.pid).length === 0)
    await all()
    assert.deepEqual([reachable(other.pid), reachable(own.pid).length], [[], 1])
    const { mode } = balancer.steering
    assert.deepEqual(
      balancer.stats().slots.map(({ steering }) => steering),
      ['handover', mode],
    )
  })
}

// Says hello at a path, as the next version of a program does, and says how many bytes come back.
const SUCCEED = `
  use Socket;
  $SIG{PIPE} = 'IGNORE';
  socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
  connect($s, sockaddr_un($ARGV[0])) or die "connect: $!\\n";
  syswrite($s, pack('H*', $ARGV[1]));
  print sysread($s, my $answer, 1000) // 0;`

test('with takeOver there is one path more, at which another user gets nothing', { skip: notRoot }, async (t) => {
  if (!has(t, 'perl')) return
  const folder = directory(t)
  // Who could not even look there would be no test of the socket.
  fs.chmodSync(folder, 0o755)
  const takeOver = path.join(folder, 'balancer.sock')
  const { primary, port } = await balanced(t, { options: { ...PATIENT, takeOver } })
  await until(() => fs.existsSync(takeOver))
  const [unix, ...more] = reachable(primary.pid).filter((name) => !name.endsWith(hex(port)))
  // Under the name that it had before it took the place of its predecessor's.
  assert.equal(unix, `unix ${path.join(folder, `.${primary.pid}`)}`)
  assert.deepEqual(more, [])
  const succeed = ['perl', '-e', SUCCEED, takeOver, hello().toString('hex')]
  assert.deepEqual(asNobody(...succeed), { status: 13, said: 'connect: Permission denied\n' })
  // Nor where permissions do not count.
  fs.chmodSync(takeOver, 0o777)
  assert.deepEqual(asNobody(...succeed), { status: 0, said: '0' })
  const { said } = runAs({}, ...succeed)
  assert.ok(Number(said) > 0, said)
  assert.equal((await request(port)).status, 200)
})

/** A hostile worker in slot 0 and good ones in two others, and the clients of each slot. */
async function besieged(t, how, options) {
  const primary = start(t, 'hostile-primary.js', {
    args: [{ how, options: { maxRetries: 2, retryDelay: 50, ...options } }],
  })
  const { port, pids } = await primary.call('listen')
  await until(async () => (await primary.call('stats')).slots.slice(1).every(({ pid }) => pid))
  const clients = pids.map(() => [])
  for (let n = 0; n < 60; n++) clients[await primary.call('slotOf', loopback(n))].push(loopback(n))
  return { primary, port, pids, clients }
}

/** Each client of a good worker is served by that, and counted there. */
async function assertOthersServed({ primary, port, pids, clients }) {
  const counted = async () => (await primary.call('stats')).slots.map(({ adopted }) => adopted)
  const before = await counted()
  for (const slot of [1, 2]) {
    await parallel(clients[slot].length, 8, async (n) => {
      const { status, body } = await request(port, { localAddress: clients[slot][n] })
      assert.deepEqual([status, JSON.parse(body).pid], [200, pids[slot]])
    })
  }
  const after = await counted()
  for (const slot of [1, 2]) assert.equal(after[slot] - before[slot], clients[slot].length)
}

for (const how of [
  'announces nonsense',
  'takes all and acknowledges nothing',
  'acknowledges what it was not sent',
  'returns what it was not sent',
  'gives back what was lent to others',
  'does not stop speaking',
  'comes and goes',
]) {
  test(`a hostile worker ${how}: no other slot's client notices, and its own have the next worker`, async (t) => {
    const siege = await besieged(t, how)
    const { primary, port, pids, clients } = siege
    // Its own clients may have to wait, or be refused.
    const own = clients[0].map((localAddress) => request(port, { localAddress }).catch(() => {}))
    await primary.next('done')
    await assertOthersServed(siege)
    await assertOthersServed(siege)
    const successor = await primary.call('replace')
    await until(async () => (await primary.call('stats')).slots[0].pid === successor)
    await Promise.all(own)
    for (const localAddress of clients[0]) {
      assert.equal(JSON.parse((await request(port, { localAddress })).body).pid, successor)
    }
    const { slots } = await primary.call('stats')
    assert.deepEqual(
      slots.map(({ pid }) => pid),
      [successor, pids[1], pids[2]],
    )
  })
}

test('a hostile worker that keeps all channels it can get takes few descriptors of the primary', async (t) => {
  const siege = await besieged(t, 'keeps all channels that it can get')
  const MOST = 8
  let last = 0
  while (last < MOST) last = await siege.primary.next('channels')
  const before = fdCount(siege.primary.pid)
  for (let n = 0; n < 5; n++) await assertOthersServed(siege)
  // It never would again if there were more and more.
  await until(() => fdCount(siege.primary.pid) <= before + MOST)
})

test('a hostile worker under the name of another balancer gets none of its clients', async (t) => {
  // The balancer says which workers it has: that one announces itself is not enough.
  const siege = await besieged(t, 'announces itself under another name')
  await siege.primary.next('done')
  await assertOthersServed(siege)
  assert.equal((await siege.primary.call('stats')).slots[0].pid, null)
})

for (const [what, options, skip] of [
  ['accepted from the kernel', {}, !kernelSteers],
  ['has open', { affinity: { query: 'sid' } }, false],
]) {
  test(`a hostile worker that lies about what it ${what} spoils the counters of no other slot`, { skip }, async (t) => {
    const { primary, port, pids } = await besieged(t, 'counts what it likes', options)
    const counted = async () => (await primary.call('stats')).slots.map(({ adopted }) => adopted)
    await primary.next('counting')
    for (const count of ['NaN', -1, '-Infinity', 2 ** 60, Number.MAX_VALUE, 'Infinity', 0, 5e-324]) {
      await primary.call('tell', { count })
      await primary.next('done')
      const before = await counted()
      const served = pids.map(() => 0)
      await parallel(60, 8, async (n) => {
        const { status, body } = await request(port, { localAddress: loopback(n) })
        assert.equal(status, 200)
        served[pids.indexOf(JSON.parse(body).pid)]++
      })
      const after = await counted()
      for (const slot of [1, 2]) assert.equal(after[slot] - before[slot], served[slot])
      const { waits, slots, ...rest } = await primary.call('stats')
      for (const [name, number] of Object.entries({ ...waits.counts, sum: waits.sum, ...rest })) {
        assert.ok(typeof number !== 'number' || (number >= 0 && Number.isFinite(number)), `${name}: ${number}`)
      }
      for (const { share } of slots) assert.ok(share >= 0 && share <= 1)
    }
  })
}

test('a hostile worker that says it is idle draws what two random choices give it, and no more', async (t) => {
  const WORKERS = 4
  const CLIENTS = 400
  const primary = start(t, 'hostile-primary.js', {
    args: [{ how: 'counts what it likes', workers: WORKERS, options: { ...PATIENT, affinity: { query: 'sid' } } }],
  })
  const { port, pids } = await primary.call('listen')
  await until(async () => (await primary.call('stats')).slots.every(({ pid }) => pid))
  await primary.next('counting')
  await primary.call('tell', { count: 0 })
  await primary.next('done')
  const sockets = []
  t.after(() => sockets.map((socket) => socket.destroy()))
  const served = new Map(pids.map((pid) => [pid, 0]))
  await parallel(CLIENTS, 8, async () => {
    const socket = await connect(port)
    sockets.push(socket)
    socket.write('GET /hold HTTP/1.1\r\nHost: x\r\n\r\n')
    const [answer] = await once(socket, 'data')
    const pid = Number(/"pid":(\d+)/.exec(answer)[1])
    served.set(pid, served.get(pid) + 1)
  })
  // It is one of two that are drawn for 2 clients in n; 5 standard deviations of that.
  const most = (CLIENTS * 2) / WORKERS + 5 * Math.sqrt((CLIENTS * 2 * (WORKERS - 2)) / WORKERS ** 2)
  assert.ok(served.get(pids[0]) <= most, `${[...served.values()]}`)
  for (const pid of pids.slice(1)) assert.ok(served.get(pid) >= 40, `${[...served.values()]}`)
})
