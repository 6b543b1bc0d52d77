'use strict'

// The programs of docs/fleet.md and docs/deployment.md from which another version takes over: two versions of each.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const { connect, readAll, request } = require('../support/client')
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

/** The host of docs/fleet.md, whose versions all have the same ports. */
async function host(t) {
  const [port, health, agent] = [await freePort('127.0.0.1'), await freePort('127.0.0.1'), await freePort('127.0.0.1')]
  const text = program('docs/fleet.md', 'TAKE_OVER')
    .get('cluster.js')
    .replace('8081', `${port}`)
    .replace('8082', `${health}`)
    .replace('8083', `${agent}`)
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
    port,
    start: () => run(t, folder, { env: { NODE_OPTIONS: '', TAKE_OVER: path.join(folder, 'balancer.sock') } }),
    /** What the agent says; nothing in the moment in which it changes. */
    agent: () => readAll(net.connect(agent, '127.0.0.1')).catch(() => ''),
    /** Whether all is well, and somebody says so. */
    health: () =>
      request(health, { path: '/health' }).then(
        ({ status }) => status === 200,
        () => false,
      ),
  }
}

/** The worker that answers. */
async function workerOf(port) {
  const { status, body } = await request(port)
  assert.equal(status, 200, body)
  return Number(body.match(/worker (\d+)/)[1])
}

test('fleet: the health ports change hands with the port, whoever is silent', TIMEOUT, async (t) => {
  const { port, start, agent, health } = await host(t)
  const first = start()
  await first.until(async () => (await agent()) === 'up 100%\n')
  const silent = await connect(port)
  t.after(() => silent.destroy())
  assert.ok(first.workers().includes(await workerOf(port)))
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
  assert.ok(second.workers().includes(await workerOf(port)))
  await second.until(health)
  silent.destroy()
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
})

test('fleet: a version that leaves gives the health ports to one that is started meanwhile', TIMEOUT, async (t) => {
  const { port, start, agent } = await host(t)
  const first = start()
  await first.until(async () => (await agent()) === 'up 100%\n')
  const session = await connect(port)
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
  const [{ port: site }, { port: admin }] = [await first.listens(0), await first.listens(1)]
  const second = start({ LATE: 'admin' })
  await second.until(async () => second.workers().includes(await workerOf(site)))
  for (let n = 0; n < 20; n++) assert.ok(first.workers().includes(await workerOf(admin)))
  for (const pid of second.workers()) signal(pid, 'SIGUSR2')
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
  for (const port of [site, admin]) assert.ok(second.workers().includes(await workerOf(port)))
})
