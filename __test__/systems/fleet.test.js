'use strict'

// examples/fleet: three hosts behind HAProxy, with Redis and its replica. Parts of it end, under load: who notices?
//
// Needs redis-server, HAProxy and the packages of the example; where one is missing, these tests are skipped on a
// developer's machine and fail in CI. How long something took is told, and never asserted.

const assert = require('node:assert/strict')
const { EventEmitter, once } = require('node:events')
const { describe, test: nodeTest } = require('node:test')
const { Health } = require('../../examples/fleet/health')
const { launch, skip: noBrowser } = require('../support/browser')
const { loopback, request, until } = require('../support/client')
const { Room, connectTo, missingFleet, proxyBefore, proxySees, someWorker, startFleet } = require('../support/fleet')
const { freePort } = require('../support/places')
const { signal } = require('../support/process')

const TIMEOUT = 150_000

const skip = missingFleet()
const test = (name, options, body) => nodeTest(name, { skip, timeout: TIMEOUT, ...options }, body)

const MEMBERS = Number(process.env.STICKY_TEST_MEMBERS ?? 60)

/** Nobody but these noticed. */
function assertOnly(noticed, expected) {
  for (const [member, losses] of noticed) {
    const { reason } = losses[0]
    assert.ok(expected.includes(member), `client ${member.n} over ${member.transport} noticed as well: ${reason}`)
  }
}

/** All these have the session that they had. */
function assertRecovered(noticed, members) {
  for (const member of members) {
    assert.ok(
      noticed.get(member).every(({ recovered }) => recovered),
      `client ${member.n} is another session now`,
    )
  }
}

const UP = { h1: 'UP 100%', h2: 'UP 100%', h3: 'UP 100%' }

test('who notices that a part of the fleet ends', {}, async (t) => {
  // Sessions may keep an old worker for longer than this test takes.
  const fleet = await startFleet(t, { grace: TIMEOUT })
  const [h1, h2, h3] = fleet.hosts
  const room = new Room(t, fleet, MEMBERS)
  await room.settled()
  // All of a session's requests reached the same worker so far, or somebody would have been disconnected.
  assert.deepEqual(
    room.members.flatMap(({ losses }) => losses),
    [],
  )
  for (const { name } of fleet.hosts) assert.ok(room.of({ host: name }).length > 0, `${name} has no clients`)
  room.talk()
  await room.converses()

  await t.test('a worker is killed: its own clients do', async () => {
    const pid = someWorker(room)
    const own = room.of({ pid })
    const noticed = await room.incident('A worker was killed', own, async () => signal(pid, 'SIGKILL'))
    assertOnly(noticed, own)
  })

  await t.test('a balancer is killed: its clients that poll do, and are recovered', async () => {
    const own = room.of({ host: h1.name })
    const polling = own.filter(({ transport }) => transport === 'polling')
    const { primary } = h1
    const noticed = await room.incident('A balancer was killed, and started again', polling, async () => {
      signal(primary.pid, 'SIGKILL')
      await until(() => h1.primary !== primary && h1.ready)
      await proxySees(fleet, UP)
    })
    // Its workers end as they should: WebSockets stay where they are, unless it took so long that HAProxy gave the host up.
    assertOnly(noticed, own)
    assertRecovered(noticed, noticed.keys())
  })

  await t.test('a host is killed: its own clients do, and nobody when it comes back', async () => {
    const own = room.of({ host: h2.name })
    const noticed = await room.incident('A host was killed', own, async () => fleet.killHost(h2))
    assertOnly(noticed, own)
    assert.deepEqual(room.of({ host: h2.name }), [])
    const again = await room.incident('The host came back', [], async () => {
      await fleet.startHost(h2)
      await proxySees(fleet, UP)
    })
    assertOnly(again, [])
    // Sessions stay where they are; who is new comes to it again.
    assert.deepEqual(room.of({ host: h2.name }), [])
  })

  await t.test('Redis is killed, and started again: nobody is disconnected', async () => {
    const noticed = await room.incident('Redis was away for a second', [], async () => {
      const master = fleet.redisMaster()
      await fleet.killRedis(master)
      await new Promise((resolve) => setTimeout(resolve, 1000))
      await fleet.startRedis(master)
    })
    assertOnly(noticed, [])
  })

  await t.test('Redis is killed, and its replica takes its place: nobody is disconnected', async () => {
    const master = fleet.redisMaster()
    const noticed = await room.incident('Redis was replaced by its replica', [], async () => {
      await fleet.killRedis(master)
      await until(() => fleet.redisMaster() !== master)
    })
    assertOnly(noticed, [])
    // The other one comes back as its replica.
    await fleet.startRedis(master)
    await room.converses()
  })

  await t.test('a host takes no new clients: nobody notices, and who is new goes elsewhere', async () => {
    const noticed = await room.incident('A host took no new clients', [], async () => {
      await fleet.askProxy('set server app/h1 state drain')
      await proxySees(fleet, { h1: 'DRAIN' })
      const fresh = new Room(t, fleet, 12)
      await fresh.settled()
      assert.deepEqual(fresh.of({ host: h1.name }), [])
      fresh.end()
    })
    assertOnly(noticed, [])
    assert.ok(room.of({ host: h1.name, transport: 'polling' }).length > 0)
    await fleet.askProxy('set server app/h1 state ready')
    await proxySees(fleet, UP)
  })

  await t.test(
    'all hosts are replaced by another version: WebSockets notice nothing, sessions that poll are recovered',
    async () => {
      const polling = room.of({ transport: 'polling' })
      const before = new Set(fleet.hosts.map(({ primary }) => primary.pid))
      const pids = new Set(room.members.map(({ pid }) => pid))
      const noticed = await room.incident('All hosts were replaced, one after another', polling, async () => {
        for (const host of fleet.hosts) {
          // There is no event for it: who has come back may still have to be settled.
          await room.settled()
          // The version before waits for who says nothing; nobody else has to.
          const silent = await connectTo(fleet, host)
          await fleet.startHost(host)
          silent.destroy()
        }
      })
      assertOnly(noticed, polling)
      // Whoever comes back before its old worker has written its session down begins anew. On a machine with far too much to
      // do some were seen to: 4 of 36.
      const losses = [...noticed.values()].flat()
      assert.ok(losses.filter(({ recovered }) => recovered).length >= losses.length * 0.6)
      assert.ok(fleet.hosts.every(({ primary }) => !before.has(primary.pid)))
      assert.ok(polling.every(({ pid }) => !pids.has(pid)))
      assert.ok(room.of({ transport: 'websocket' }).every(({ pid }) => pids.has(pid)))
      await proxySees(fleet, UP)
    },
  )

  await t.test('a host leaves: HAProxy sends it nobody new, and its sessions are recovered elsewhere', async () => {
    const polling = room.of({ host: h3.name, transport: 'polling' })
    // The WebSockets of the room are at the version before.
    const guests = new Room(t, fleet, 24)
    await guests.settled()
    const staying = guests.of({ host: h3.name, transport: 'websocket' })
    assert.ok(staying.length > 0)
    h3.wanted = false
    const noticed = await room.incident('A host left', polling, async () => {
      signal(h3.primary.pid, 'SIGTERM')
      await proxySees(fleet, { h3: 'UP 0%' })
    })
    assertOnly(noticed, polling)
    assertRecovered(noticed, polling)
    assert.deepEqual(room.of({ host: h3.name, transport: 'polling' }), [])
    // It comes back while those go on at the version that leaves.
    const { primary } = h3
    const again = await room.incident('It came back', [], async () => {
      await fleet.startHost(h3)
      await proxySees(fleet, UP)
    })
    assertOnly(again, [])
    assert.equal(primary.exitCode, null)
    assert.ok(staying.every(({ losses }) => losses.length === 0))
    guests.end()
  })
})

test('HAProxy: who is new and refused with 503 is sent to another host; who has a session is not', {}, async (t) => {
  const { port, asked } = await proxyBefore(t, { h1: 503, h2: 200, h3: 200 })
  // Enough for each host to be the first of some.
  for (let n = 0; n < 24; n++) {
    const { status, body } = await request(port, { localAddress: loopback(n) })
    assert.equal(status, 200)
    assert.notEqual(body, 'h1')
  }
  assert.deepEqual(new Set(asked), new Set(['h1', 'h2', 'h3']))
  asked.length = 0
  for (const [host, status] of [
    ['h1', 503],
    ['h2', 200],
    ['h3', 200],
  ]) {
    assert.equal((await request(port, { path: `/socket.io/?EIO=4&sid=${host}.a.b` })).status, status)
  }
  assert.deepEqual(asked, ['h1', 'h2', 'h3'])
  // A host that nobody has heard of is as good as none.
  assert.match((await request(port, { path: '/socket.io/?EIO=4&sid=h9.a.b' })).body, /^h[123]$/)
})

test('HAProxy: what health.js says is understood, and leaves alone what an operator has said', {}, async (t) => {
  let pid = 1
  const balancer = Object.assign(new EventEmitter(), { listening: true, stats: () => ({ slots: [{ pid }] }) })
  const health = new Health(balancer)
  t.after(() => health.close())
  const ports = [await freePort('127.0.0.1'), await freePort('127.0.0.1')]
  await health.listen(...ports, '127.0.0.1')
  const proxy = await proxyBefore(t, { h1: 200, h2: 200, h3: 200 }, ports)
  const { port } = proxy
  /** Each host's agent is asked, and what it said before has been heard. */
  const heard = async () => {
    for (let n = 0; n < 9; n++) await once(health, 'told')
  }
  const everybody = async () => {
    const answers = Array.from({ length: 24 }, (_, n) => request(port, { localAddress: loopback(n) }))
    return new Set((await Promise.all(answers)).map(({ body }) => body))
  }
  for (const state of ['drain', 'maint']) {
    await proxy.askProxy(`set server app/h1 state ${state}`)
    await heard()
    assert.match((await proxy.proxyStates()).h1, new RegExp(`^${state}`, 'i'))
    assert.deepEqual(await everybody(), new Set(['h2', 'h3']))
    await proxy.askProxy('set server app/h1 state ready')
    await proxySees(proxy, UP)
    assert.deepEqual(await everybody(), new Set(['h1', 'h2', 'h3']))
  }
  // Without workers it is down when /health has said so for long enough, which is then not `DOWN (agent)`.
  pid = null
  await proxySees(proxy, { h1: 'DOWN 100%', h2: 'DOWN 100%', h3: 'DOWN 100%' })
  pid = 2
  await proxySees(proxy, UP)
  // A host that leaves keeps who has a session.
  health.drain()
  await proxySees(proxy, { h1: 'UP 0%', h2: 'UP 0%', h3: 'UP 0%' })
  assert.equal((await request(port)).status, 503)
  assert.equal((await request(port, { path: '/socket.io/?EIO=4&sid=h1.a.b' })).body, 'h1')
})

describe('smaller fleets', { concurrency: 2 }, () => {
  test('a host vanishes without a word: HAProxy notices, and its clients come back elsewhere', {
    skip: skip || (process.getuid() !== 0 && 'needs root, for network namespaces'),
  }, async (t) => {
    const fleet = await startFleet(t, { namespaces: true })
    const room = new Room(t, fleet, MEMBERS / 2)
    await room.settled()
    room.talk()
    await room.converses()
    // The one with the most clients.
    const [host] = [...fleet.hosts].sort((a, b) => room.of({ host: b.name }).length - room.of({ host: a.name }).length)
    const own = room.of({ host: host.name })
    const noticed = await room.incident("A host's cable was pulled", own, async () => fleet.setLink(host, false))
    assertOnly(noticed, own)
    const again = await room.incident('The cable was put in again', [], async () => {
      fleet.setLink(host, true)
      await proxySees(fleet, UP)
    })
    assertOnly(again, [])
  })

  test('browsers chat through HAProxy, over all hosts', { skip: skip || noBrowser }, async (t) => {
    const fleet = await startFleet(t, { grace: 1000 })
    const browser = await launch()
    const pages = []
    // To the browsers, which have one address, a host comes by chance; so one of them has another one's.
    const room = new Room(t, fleet, 6)
    await room.settled()
    for (const n of [0, 1]) {
      const context = await browser.newContext()
      const page = await context.newPage()
      page.on('pageerror', (error) => assert.fail(error))
      t.after(() => context.close())
      await page.goto(fleet.url)
      await page.locator('body[data-state=connected]').waitFor()
      await page.locator('#where').filter({ hasText: 'over websocket' }).waitFor()
      pages[n] = page
    }
    const said = (page, text) => page.locator('#log li').filter({ hasText: text }).first().waitFor()
    await pages[0].getByLabel('Message').fill('hello')
    await pages[0].getByRole('button', { name: 'Say' }).click()
    for (const page of pages) await said(page, 'hello')
    await until(() => room.members.every(({ heard }) => heard.has('hello')))
    for (const member of room.members) await member.say(`from ${member.n}`)
    for (const page of pages) for (const { n } of room.members) await said(page, `from ${n}`)

    // A host leaves, and does not wait for WebSockets for long: its browsers go on elsewhere, and miss nothing.
    const where = await pages[0].locator('#where').textContent()
    const host = fleet.hosts.find(({ name }) => where.includes(`host ${name}`))
    host.wanted = false
    signal(host.primary.pid, 'SIGTERM')
    for (const page of pages) {
      await said(page, 'Disconnected')
      await said(page, 'Back, and nothing is missing.')
      const elsewhere = page.locator('#where').filter({ hasNotText: `host ${host.name}` })
      await elsewhere.filter({ hasText: 'over websocket' }).waitFor()
    }
    await pages[1].getByLabel('Message').fill('still here')
    await pages[1].getByLabel('Message').press('Enter')
    for (const page of pages) await said(page, 'still here')
  })
})
