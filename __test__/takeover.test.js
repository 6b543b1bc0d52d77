'use strict'

// The option `takeOver`: another primary, such as a new version of the program, takes the place of the one that listens.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const sticky = require('..')
const { connect, loopback, parallel, readAll, request, until } = require('./support/client')
const { hello } = require('./support/frames')
const { directory } = require('./support/places')
const { PATIENT, signal, start } = require('./support/process')
const { served } = require('./support/sessions')
const { kernelSteers } = require('./support/steering')

/** A folder for sockets that nobody else may write in. */
function place(t) {
  const folder = directory(t)
  fs.chmodSync(folder, 0o700)
  return path.join(folder, 'balancer.sock')
}

/** A primary that takes over, and waits for the next one, at a path. */
function version(t, takeOver, { workers = 2, options, ...rest } = {}) {
  return start(t, 'slots-primary.js', { args: [{ workers, options: { ...PATIENT, takeOver, ...options }, ...rest }] })
}

/** The same, listening. */
async function listening(t, takeOver, args, port) {
  const primary = version(t, takeOver, args)
  const address = await primary.call('listen', port)
  return { primary, port: address.port }
}

/** The next version in the place of another, which then closes by itself. */
async function succeed(t, takeOver, before, port, args) {
  const { primary } = await listening(t, takeOver, args, port)
  await before.next('closed')
  return primary
}

/** Who answers each of the first clients. */
async function answers(port, clients = 40) {
  const found = []
  await parallel(clients, 8, async (n) => {
    const { status, body } = await request(port, { localAddress: loopback(n) })
    assert.equal(status, 200)
    found[n] = JSON.parse(body).pid
  })
  return found
}

/** Asks without an end, a connection each time, and counts. */
function load(port, width = 8) {
  const counts = { answered: 0, failed: [] }
  let over = false
  const ask = async (n) => {
    while (!over) {
      try {
        const { status } = await request(port, { localAddress: loopback(n) })
        if (status === 200) counts.answered++
        else counts.failed.push(status)
      } catch (error) {
        counts.failed.push(error.code ?? error.message)
      }
    }
  }
  const asking = Array.from({ length: width }, (_, n) => ask(n))
  return {
    counts,
    async end() {
      over = true
      await Promise.all(asking)
      return counts
    },
  }
}

for (const steering of kernelSteers ? ['kernel', 'handover'] : ['handover']) {
  test(`${steering}: under load one version follows another, with more slots and fewer, and no connection fails`, async (t) => {
    const takeOver = place(t)
    let { primary, port } = await listening(t, takeOver, { options: { steering } })
    const clients = load(port)
    for (const workers of [2, 4, 3, 3]) {
      const { answered } = clients.counts
      primary = await succeed(t, takeOver, primary, port, { workers, options: { steering } })
      assert.equal((await primary.call('steering')).mode, steering)
      await until(() => clients.counts.answered > answered + 200)
    }
    const { failed } = await clients.end()
    assert.deepEqual(failed, [])
    // The last one serves alone, and stops as ever.
    const pids = await served(primary, 3)
    assert.ok((await answers(port)).every((pid) => pids.includes(pid)))
    primary.call('close').catch(() => {})
  })

  test(`${steering}: clients keep their slots, and sessions theirs`, async (t) => {
    const takeOver = place(t)
    const options = steering === 'kernel' ? { steering } : { affinity: { query: 'sid', fallback: 'address' } }
    const { primary, port } = await listening(t, takeOver, { workers: 4, options })
    const before = await served(primary, 4)
    const slots = (await answers(port)).map((pid) => before.indexOf(pid))
    const { token } = JSON.parse((await request(port, { localAddress: loopback(0) })).body)
    const next = await succeed(t, takeOver, primary, port, { workers: 4, options })
    const after = await served(next, 4)
    assert.deepEqual(
      (await answers(port)).map((pid) => after.indexOf(pid)),
      slots,
    )
    if (steering === 'handover') {
      const { body } = await request(port, { localAddress: loopback(1), path: `/?sid=${token}` })
      assert.equal(after.indexOf(JSON.parse(body).pid), slots[0])
    }
  })

  test(`${steering}: what waits in a slot without a worker is served by the next version`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { options: { steering } })
    const pids = await served(primary, 2)
    const slots = (await answers(port)).map((pid) => pids.indexOf(pid))
    await primary.call('empty', 0)
    await until(async () => (await primary.call('stats')).slots[0].pid === null)
    const clients = [...slots.keys()].filter((n) => slots[n] === 0)
    const waiting = clients.map((n) => request(port, { localAddress: loopback(n) }))
    await until(async () => (await primary.call('stats')).slots[0].waiting === clients.length)
    const next = await succeed(t, takeOver, primary, port, { options: { steering } })
    const [successor] = await served(next, 2)
    for (const { status, body } of await Promise.all(waiting)) {
      assert.deepEqual([status, JSON.parse(body).pid], [200, successor])
    }
  })

  test(`${steering}: a version that crashes while it starts, or is never ready, leaves the one before serving`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { options: { steering } })
    const pids = await served(primary, 2)
    const clients = load(port, 4)
    for (const end of ['SIGKILL', 'SIGTERM']) {
      // It listens, and none of its workers does.
      const crashing = version(t, takeOver, { options: { steering }, ready: false })
      await crashing.call('listen', port)
      signal(crashing.pid, end)
      await crashing.exited
      assert.ok((await answers(port)).every((pid) => pids.includes(pid)))
    }
    const { failed } = await clients.end()
    assert.deepEqual(failed, [])
    // And another one may come.
    const next = await succeed(t, takeOver, primary, port, { options: { steering } })
    await served(next, 2)
    assert.ok((await answers(port)).every((pid) => !pids.includes(pid)))
  })

  test(`${steering}: a version whose predecessor is killed before it is ready takes over what it left`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { options: { steering } })
    await served(primary, 2)
    const next = version(t, takeOver, { options: { steering }, ready: false })
    await next.call('listen', port)
    signal(primary.pid, 'SIGKILL')
    await primary.exited
    // The port is there all the time; who comes now waits.
    const waiting = answers(port, 8)
    await next.call('resize', 2)
    const pids = await served(next, 2)
    assert.ok((await waiting).every((pid) => pids.includes(pid)))
  })

  test(`${steering}: who comes while there is no version that is ready waits, with no patience, for the first worker`, async (t) => {
    const takeOver = place(t)
    const options = { steering, maxRetries: 0 }
    const { primary, port } = await listening(t, takeOver, { options })
    await served(primary, 2)
    const next = version(t, takeOver, { options, ready: false })
    await next.call('listen', port)
    signal(primary.pid, 'SIGKILL')
    await primary.exited
    await next.next('takeover')
    const sockets = await Promise.all(Array.from({ length: 20 }, (_, n) => connect(port, loopback(n))))
    for (const socket of sockets) socket.write('GET / HTTP/1.0\r\n\r\n')
    // Another version may come, and finds the same.
    const third = version(t, takeOver, { options, ready: false })
    await third.call('listen', port)
    assert.equal((await next.call('stats')).refused, 0)
    await next.call('resize', 1)
    const [pid] = await served(next, 1)
    for (const socket of sockets) assert.match(await readAll(socket), new RegExp(`"pid":${pid}\\b`))
    assert.equal((await next.call('stats')).refused, 0)
  })

  test(`${steering}: a version whose workers come one by one takes over with as many slots as before`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { workers: 3, options: { steering } })
    const old = await served(primary, 3)
    const next = version(t, takeOver, { options: { steering }, ready: false })
    await next.call('listen', port)
    for (const workers of [1, 2]) {
      await next.call('resize', workers)
      await until(async () => (await next.call('stats')).slots.filter(({ pid }) => pid).length === workers)
      assert.ok((await answers(port)).every((pid) => old.includes(pid)))
    }
    await next.call('resize', 3)
    await Promise.all([next.next('takeover'), primary.next('superseded'), primary.next('closed')])
    const pids = await served(next, 3)
    assert.ok((await answers(port)).every((pid) => pids.includes(pid)))
  })
}

for (const steering of kernelSteers ? ['kernel', 'handover'] : ['handover']) {
  test(`${steering}: of two versions that wait, the one that is ready first serves, and the other is told`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { options: { steering } })
    await served(primary, 2)
    const never = version(t, takeOver, { options: { steering }, ready: false })
    await never.call('listen', port)
    const clients = load(port, 4)
    const next = await succeed(t, takeOver, primary, port, { options: { steering } })
    const { code } = await never.exited
    assert.equal(code, 1)
    assert.match(never.stderr, /ERR_STICKY_TAKE_OVER.*another version was ready first/)
    const { answered } = clients.counts
    await until(() => clients.counts.answered > answered + 100)
    const { failed } = await clients.end()
    assert.deepEqual(failed, [])
    // And the next one finds the one that serves.
    await succeed(t, takeOver, next, port, { options: { steering } })
  })

  for (const end of ['close', 'exit']) {
    test(`${steering}: a predecessor that ends by ${end} before the next version is ready leaves it the port`, async (t) => {
      const takeOver = place(t)
      const { primary, port } = await listening(t, takeOver, { workers: 3, options: { steering } })
      await served(primary, 3)
      const next = version(t, takeOver, { options: { steering }, ready: false })
      await next.call('listen', port)
      primary.call(end).catch(() => {})
      await (end === 'close' ? primary.next('closed') : primary.exited)
      const waiting = answers(port, 12)
      await next.call('resize', 3)
      const pids = await served(next, 3)
      assert.ok((await waiting).every((pid) => pids.includes(pid)))
      assert.equal(new Set(await answers(port)).size, 3)
    })
  }

  test(`${steering}: slots that the version before adds while the next one waits are known to it`, async (t) => {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, { options: { steering } })
    const next = version(t, takeOver, { options: { steering }, ready: false })
    await next.call('listen', port)
    await primary.call('resize', 3)
    await served(primary, 3)
    await next.call('resize', 4)
    await primary.next('closed')
    const pids = await served(next, 4)
    for (const [n, pid] of (await answers(port)).entries()) {
      assert.equal(pids.indexOf(pid), (await next.call('slotOf', loopback(n))).slot)
    }
  })
}

test('a client that says nothing for longer than patience is not refused for that', async (t) => {
  const takeOver = place(t)
  const options = { affinity: { query: 'sid' }, maxRetries: 1, retryDelay: 50 }
  const { primary, port } = await listening(t, takeOver, { options })
  await served(primary, 2)
  const socket = await connect(port)
  t.after(() => socket.destroy())
  await until(async () => (await primary.call('stats')).identifying === 1)
  const { primary: next } = await listening(t, takeOver, { options }, port)
  const pids = await served(next, 2)
  await until(async () => (await primary.call('stats')).uptime === 0)
  // Longer than its patience, of which nothing tells.
  await new Promise((resolve) => setTimeout(resolve, 200))
  socket.write('GET / HTTP/1.0\r\n\r\n')
  const { pid } = JSON.parse((await readAll(socket)).split('\r\n\r\n')[1])
  assert.ok(pids.includes(pid))
  await primary.next('closed')
})

test('a balancer that closes keeps nobody from listening', async (t) => {
  const takeOver = place(t)
  const { primary, port } = await listening(t, takeOver, { options: { maxRetries: 40 } })
  await served(primary, 2)
  await primary.call('empty', 0)
  await primary.call('empty', 1)
  const waiting = request(port).catch(() => {})
  await until(async () => (await primary.call('stats')).waiting === 1)
  await primary.call('close')
  const { primary: next } = await listening(t, takeOver, {}, port)
  const pids = await served(next, 2)
  assert.ok((await answers(port, 8)).every((pid) => pids.includes(pid)))
  await waiting
})

test('the steering can change from one version to the next', { skip: !kernelSteers }, async (t) => {
  const takeOver = place(t)
  const modes = [
    [{}, 'kernel'],
    [{ steering: 'handover' }, 'handover'],
    // A single socket, which the kernel was never told to choose among.
    [{}, 'handover'],
  ]
  let primary
  let port
  for (const [options, mode] of modes) {
    if (primary) primary = await succeed(t, takeOver, primary, port, { workers: 3, options })
    else ({ primary, port } = await listening(t, takeOver, { workers: 3, options }))
    assert.equal((await primary.call('steering')).mode, mode)
    const pids = await served(primary, 3)
    assert.deepEqual(new Set(await answers(port)), new Set(pids))
  }
  assert.match((await primary.call('steering')).reason, /taken over is a single one/)
  await assert.rejects(listening(t, takeOver, { options: { steering: 'kernel' } }, port), {
    code: 'ERR_STICKY_STEERING',
  })
})

test('clients who have not said who they are yet are passed on when they do', async (t) => {
  const takeOver = place(t)
  const options = { proxyProtocol: true, behindProxy: true }
  const { primary, port } = await listening(t, takeOver, { options })
  await served(primary, 2)
  const sockets = []
  for (const head of ['', 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n', 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HT']) {
    const socket = await connect(port)
    t.after(() => socket.destroy())
    socket.write(head)
    sockets.push({ socket, head })
  }
  await until(async () => (await primary.call('stats')).identifying === 3)
  const { primary: next } = await listening(t, takeOver, { options }, port)
  const pids = await served(next, 2)
  // Until then the one before identifies them for its own workers.
  await until(async () => (await primary.call('stats')).uptime === 0)
  for (const { socket, head } of sockets) {
    const whole = 'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.0\r\n\r\n'
    socket.write(whole.slice(head.length))
    const { pid } = JSON.parse((await readAll(socket)).split('\r\n\r\n')[1])
    assert.ok(pids.includes(pid))
  }
  await primary.next('closed')
})

test('a worker of the version before that is stuck keeps nobody from the next one', async (t) => {
  const takeOver = place(t)
  const { primary, port } = await listening(t, takeOver, {})
  const old = await served(primary, 2)
  signal(old[0], 'SIGSTOP')
  t.after(() => signal(old[0], 'SIGKILL'))
  const { primary: next } = await listening(t, takeOver, {}, port)
  const pids = await served(next, 2)
  // Those that the stuck one was given before are its own.
  await until(async () => (await answers(port, 8)).every((pid) => pids.includes(pid)))
  assert.ok((await answers(port)).every((pid) => pids.includes(pid)))
})

test('close() frees the port though a stuck worker of the version before has its socket', {
  skip: !kernelSteers,
}, async (t) => {
  for (const steering of ['kernel', 'handover']) {
    const takeOver = place(t)
    const { primary, port } = await listening(t, takeOver, {})
    const [stuck] = await served(primary, 2)
    signal(stuck, 'SIGSTOP')
    t.after(() => signal(stuck, 'SIGKILL'))
    const { primary: next } = await listening(t, takeOver, { options: { steering } }, port)
    await next.next('takeover')
    await next.call('close')
    const other = net.createServer().listen(port, '127.0.0.1')
    await once(other, 'listening')
    other.close()
  }
})

test('what has been offered is offered again where its file was removed, or could not be made', async (t) => {
  const takeOver = place(t)
  let { primary, port } = await listening(t, takeOver, {})
  fs.rmSync(takeOver)
  await until(() => fs.existsSync(takeOver))
  const { primary: next } = await listening(t, takeOver, { ready: false }, port)
  fs.chmodSync(path.dirname(takeOver), 0o770)
  await next.call('resize', 2)
  await next.next('takeover')
  assert.equal((await next.next('warning')).code, 'STICKY_NOT_OFFERED')
  const before = fs.statSync(takeOver).ino
  fs.chmodSync(path.dirname(takeOver), 0o700)
  await until(() => fs.statSync(takeOver).ino !== before)
  primary = await succeed(t, takeOver, next, port)
  await served(primary, 2)
})

test('what is no socket is not replaced', async (t) => {
  const takeOver = place(t)
  fs.writeFileSync(takeOver, 'precious')
  const balancer = sticky.createBalancer(() => [], { takeOver })
  assert.throws(() => balancer.listen(0), { code: 'ERR_STICKY_TAKE_OVER', message: /exists and is no socket/ })
  assert.equal(fs.readFileSync(takeOver, 'utf8'), 'precious')
})

test('another address than the one asked for is not taken over', async (t) => {
  for (const [before, asked, message] of [
    [{ host: '0.0.0.0' }, { host: '::' }, /listens at 0\.0\.0\.0 and port \d+, and this listen\(\) says :: and port/],
    [{ host: '::', ipv6Only: true }, { host: '::' }, /listens at :: and port \d+, for IPv6 only, and/],
    [{ host: '::' }, { host: '::', ipv6Only: true }, /says :: and port \d+, for IPv6 only/],
    [{ host: '::' }, { host: '0.0.0.0' }, /listens at :: and port \d+, and this listen\(\) says 0\.0\.0\.0/],
  ]) {
    const takeOver = place(t)
    const [first, second] = [before, asked].map(() => sticky.createBalancer(() => [], { takeOver }))
    t.after(() => first.close())
    first.listen({ port: 0, ...before })
    await once(first, 'listening')
    const port = first.address().port
    second.listen({ port, ...asked })
    const [error] = await once(second, 'error')
    assert.equal(error.code, 'ERR_STICKY_TAKE_OVER')
    assert.match(error.message, message)
  }
})

test('what cannot be taken over is an error that says why', async (t) => {
  const takeOver = place(t)
  const code = 'ERR_STICKY_TAKE_OVER'
  const none = () => []
  const { primary, port } = await listening(t, takeOver, {})
  const balancer = sticky.createBalancer(none, { takeOver })
  for (const [listenArgs, message] of [
    [[path.join(path.dirname(takeOver), 'other')], /has to be given a port/],
    [[{ fd: 0 }], /has to be given a port/],
    [
      [port + 1],
      new RegExp(
        `listens at 127.0.0.1 and port ${port}, and this listen\\(\\) says all addresses and port ${port + 1}`,
      ),
    ],
  ]) {
    assert.throws(() => balancer.listen(...listenArgs), { code, message })
    assert.equal(balancer.listening, false)
  }
  balancer.listen(port + 1, '127.0.0.1')
  const [error] = await once(balancer, 'error')
  assert.equal(error.code, code)
  fs.chmodSync(path.dirname(takeOver), 0o777)
  assert.throws(() => balancer.listen(0), { code, message: /a folder that other users may write in/ })
  fs.chmodSync(path.dirname(takeOver), 0o700)
  const nowhere = sticky.createBalancer(none, { takeOver: '/nowhere/socket' })
  assert.throws(() => nowhere.listen(0), { code, message: /No such file or directory/ })
  // Somebody else's socket.
  fs.rmSync(takeOver)
  for (const [says, message] of [
    ['hello'.repeat(9), /does not answer as it should/],
    [hello(99), /does not answer as it should: it speaks version 99 of the protocol, this one \d/],
  ]) {
    const stranger = net
      .createServer((socket) =>
        socket
          .on('error', () => {})
          .resume()
          .end(says),
      )
      .listen(takeOver)
    await once(stranger, 'listening')
    t.after(() => stranger.close())
    const asking = version(t, takeOver, {})
    await assert.rejects(asking.call('listen'), { code, message })
    stranger.close()
    await once(stranger, 'close')
  }
  assert.equal((await primary.call('stats')).slots.length, 2)
})
