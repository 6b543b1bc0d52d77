'use strict'

// The programs of docs/fleet.md and docs/deployment.md from which another version takes over: two versions of each.

const assert = require('node:assert/strict')
const { randomInt } = require('node:crypto')
const { once } = require('node:events')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const { loopback, readAll, request } = require('../support/client')
const { blocksOf } = require('../support/markdown')
const { freePort } = require('../support/places')
const { signal } = require('../support/process')
const { SERVER } = require('../support/program-parts')
const { place, programsOf, run, served } = require('../support/programs')

const TIMEOUT = { timeout: 60_000 }

/** The files of the program of a page that has this in its cluster.js. */
function program(page, words) {
  const blocks = blocksOf(page).filter(({ language }) => language === 'js')
  return programsOf(blocks).find(({ files }) => files.get('cluster.js')?.includes(words)).files
}

/** The host of docs/fleet.md, whose versions all have the same ports: of an address from which nobody connects. */
async function host(t) {
  const address = loopback(randomInt(1 << 16, 1 << 23))
  const ports = [await freePort(address), await freePort(address), await freePort(address)]
  const [port, health, agent] = ports.map((port) => ({ port, host: address, localAddress: '127.0.0.1' }))
  const text = program('docs/fleet.md', 'TAKE_OVER')
    .get('cluster.js')
    .replace('8081', `${port.port}, '${address}'`)
    .replace("8082, 8083, '127.0.0.1'", `${health.port}, ${agent.port}, '${address}'`)
    // So that the balancer waits for what a client says.
    .replace('{ takeOver', "{ affinity: { query: 'sid' }, takeOver")
  // A session is a response that does not end.
  const server = SERVER.replace('res.end(', "req.url === '/session' ? res.write('begun') : res.end(")
  const folder = place(
    t,
    new Map([
      ['cluster.js', text],
      ['server.js', server],
    ]),
  )
  return {
    to: port,
    start: () => run(t, folder, { env: { NODE_OPTIONS: '', TAKE_OVER: path.join(folder, 'balancer.sock') } }),
    /** What the agent says; nothing in the moment in which it changes. */
    agent: () => readAll(net.connect(agent)).catch(() => ''),
    /** Whether all is well, and somebody says so. */
    health: () =>
      request(health.port, { ...health, path: '/health' }).then(
        ({ status }) => status === 200,
        () => false,
      ),
  }
}

/** The worker that answers. */
async function workerOf(to) {
  const { status, body } = await request(to.port, to)
  assert.equal(status, 200, body)
  return Number(body.match(/worker (\d+)/)[1])
}

test('fleet: the health ports change hands with the port, whoever is silent', TIMEOUT, async (t) => {
  const { to, start, agent, health } = await host(t)
  const first = start()
  await first.until(async () => (await agent()) === 'up 100%\n')
  const silent = net.connect(to)
  await once(silent, 'connect')
  t.after(() => silent.destroy())
  assert.ok(first.workers().includes(await workerOf(to)))
  const second = start()
  const heard = new Set()
  await second.until(async () => {
    heard.add(await agent())
    return first.workers().length === 0
  })
  await second.until(async () => (await agent()) === 'up 100%\n')
  heard.delete('')
  assert.deepEqual(heard, new Set(['up 100%\n']))
  assert.equal(first.child.exitCode, null, 'the version before did not wait for the silent client')
  assert.ok(second.workers().includes(await workerOf(to)))
  await second.until(health)
  silent.destroy()
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
})

test('fleet: a version that leaves gives the health ports to one that is started meanwhile', TIMEOUT, async (t) => {
  const { to, start, agent } = await host(t)
  const first = start()
  await first.until(async () => (await agent()) === 'up 100%\n')
  const session = net.connect(to)
  await once(session, 'connect')
  t.after(() => session.destroy())
  session.write('GET /session HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(session, 'data')
  signal(first.child.pid, 'SIGTERM')
  await first.until(async () => (await agent()) === 'up 0%\n')
  const second = start()
  await second.until(async () => (await agent()) === 'up 100%\n')
  assert.equal(first.child.exitCode, null)
  session.destroy()
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
})

test('deployment: workers serve until the last of several balancers is superseded', TIMEOUT, async (t) => {
  const files = program('docs/deployment.md', 'balancers')
  // Of the second version one balancer is ready later.
  const listen = 'sticky.listen(server, { name })'
  const late = `const listen = () => ${listen}\n  if (name === process.env.LATE) process.once('SIGUSR2', listen)\n  else listen()`
  assert.ok(files.get('server.js').includes(listen))
  files.set('server.js', files.get('server.js').replace(listen, late))
  const folder = place(t, files)
  const start = (env) => run(t, folder, { env: { RUNTIME_DIRECTORY: folder, ...env } })
  const first = start()
  await served(first)
  const [site, admin] = [await first.listens(0), await first.listens(1)]
  const second = start({ LATE: 'admin' })
  await second.until(async () => second.workers().includes(await workerOf({ port: site.port })))
  for (let n = 0; n < 20; n++) assert.ok(first.workers().includes(await workerOf({ port: admin.port })))
  for (const pid of second.workers()) signal(pid, 'SIGUSR2')
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
  for (const { port } of [site, admin]) assert.ok(second.workers().includes(await workerOf({ port })))
})
