'use strict'

// The demo does what it shows: examples/demo is run as it is and used in a real browser.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const { test } = require('node:test')
const { launch, skip } = require('./support/browser')
const { until } = require('./support/client')
const { Load } = require('./support/load')
const { descendants, signal, start } = require('./support/process')
const { kernelSteers } = require('./support/steering')

const DEMO = '../../examples/demo/cluster.js'

/** The demo, and its port. */
async function running(t, env) {
  // Many pictures a second, so that many polls take little time.
  const demo = start(t, DEMO, { env: { PORT: '0', INTERVAL: '50', ...env } })
  const port = await until(() => {
    assert.equal(demo.child.exitCode, null, demo.stderr)
    return /http:\/\/localhost:(\d+)/.exec(demo.stdout)?.[1]
  })
  return { demo, port }
}

/** All processes of the demo, once all its workers have been ready. */
async function settled(demo) {
  // A reload begins when all are ready, and is complete when their successors are.
  demo.child.kill('SIGUSR2')
  await until(() => demo.stdout.includes('Cluster reloaded'))
  await until(() => descendants(demo.pid).length === 4)
  return [demo.pid, ...descendants(demo.pid)]
}

/**
 * A browser of its own on the demo's page, once that is connected.
 * @param {string} port
 * @param {import('playwright-core').BrowserContextOptions} [options]
 */
async function open(t, port, options) {
  const context = await (await launch()).newContext(options)
  context.setDefaultTimeout(60_000)
  const page = await context.newPage()
  const exceptions = []
  const errors = []
  page.on('pageerror', (error) => exceptions.push(error))
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
  t.after(async () => {
    await context.close()
    assert.deepEqual(exceptions, [])
  })
  // Not as localhost, which has two addresses; between them a busy browser might change, and be two clients.
  await page.goto(`http://127.0.0.1:${port}/`)
  await connected(page)
  return { page, errors }
}

/** Waits until a worker serves the page, and all slots are shown with theirs. */
async function connected(page) {
  await page.locator('body[data-state=connected]').waitFor()
  await page.locator('.slot.mine').waitFor()
  await page.waitForFunction(() => document.querySelectorAll('.slot:not(.empty) [data-field=pid]').length === 4)
  await shows(page, '#steering', kernelSteers ? 'by the kernel' : 'hands connections over')
}

/** Waits until an element has a text. */
function shows(page, selector, text) {
  return page.locator(selector).filter({ hasText: text }).first().waitFor()
}

/** Chooses a transport and waits until the page is connected over it. */
async function connectOver(page, label, transport) {
  await page.getByLabel(label).check()
  await shows(page, '#log', `You chose ${transport}`)
  await shows(page, '#log', 'This browser is back on worker')
  await shows(page, '#transport', new RegExp(`^${transport}$`, 'i'))
  await connected(page)
}

const overLongPolling = (page) => connectOver(page, 'Long-polling only', 'long-polling')
const overWebSocket = (page) => shows(page, '#transport', /^WebSocket$/)

/** What the page says about who serves it. */
async function seen(page) {
  const texts = (selector) => page.locator(selector).allTextContents()
  return {
    worker: Number(await page.locator('#worker').textContent()),
    slot: Number(await page.locator('#slot').textContent()),
    pids: (await texts('[data-field=pid]')).map(Number),
    adopted: (await texts('[data-field=adopted]')).map(Number),
    log: (await texts('#log .entry-text')).reverse(),
  }
}

/** Waits until another worker serves the page, and returns what it says then. */
async function servedByAnother(page, { worker }) {
  await page.waitForFunction((pid) => document.getElementById('worker').textContent !== String(pid), worker)
  await connected(page)
  // The slots follow with the next picture.
  await page.waitForFunction(() => {
    const pid = document.querySelector('.slot.mine [data-field=pid]').textContent
    return pid === document.getElementById('worker').textContent
  })
  return seen(page)
}

test('long-polling only: the page shows its worker, and stays with it over many polls', { skip }, async (t) => {
  const { port } = await running(t)
  const { page } = await open(t, port)
  await overLongPolling(page)
  const before = await seen(page)
  assert.equal(before.pids[before.slot], before.worker)
  assert.equal(new Set(before.pids).size, 4)
  await page.waitForFunction(
    (least) => Number(document.getElementById('connections').textContent) >= least,
    Number(await page.locator('#connections').textContent()) + 40,
  )
  const { adopted, ...now } = await seen(page)
  // Nothing happened that the page would tell.
  assert.deepEqual(now, { worker: before.worker, slot: before.slot, pids: before.pids, log: before.log })
  // Each poll is a connection of its own, and all of them went to one slot.
  assert.ok(adopted[now.slot] >= 40, `${adopted}`)
  assert.deepEqual(
    adopted.filter((_, slot) => slot !== now.slot),
    [0, 0, 0],
  )
})

test('upgrade to WebSocket: the same worker in the same slot', { skip }, async (t) => {
  const { port } = await running(t)
  const { page } = await open(t, port)
  await overLongPolling(page)
  const before = await seen(page)
  await connectOver(page, 'Upgrade to WebSocket', 'WebSocket')
  const { worker, slot } = await seen(page)
  assert.deepEqual({ worker, slot }, { worker: before.worker, slot: before.slot })
})

for (const [transport, connect] of [
  ['long-polling', overLongPolling],
  ['WebSocket', overWebSocket],
]) {
  test(`reload, over ${transport}: a new worker in the same slot, and the page says so`, { skip }, async (t) => {
    const { demo, port } = await running(t)
    const { page } = await open(t, port)
    await connect(page)
    const before = await seen(page)
    await page.getByRole('button', { name: 'Reload cluster' }).click()
    await shows(page, '#log', 'Cluster reloaded:')
    const now = await servedByAnother(page, before)
    assert.equal(now.slot, before.slot)
    assert.equal(new Set([...now.pids, ...before.pids]).size, 8)
    const told = now.log.slice(before.log.length).join('\n')
    assert.ok(told.includes(`workers ${now.pids.join(', ')} took over from ${before.pids.join(', ')}`), told)
    assert.ok(told.includes(`Worker ${before.worker} makes way for its successor.`), told)
    assert.ok(told.includes(`Worker ${now.worker} serves this browser now, in the same slot ${now.slot}`), told)
    // The old workers ended.
    await until(() => descendants(demo.pid).length === 4)
    assert.deepEqual(descendants(demo.pid).sort(), now.pids.sort())
  })

  test(`kill, over ${transport}: a new worker in the same slot, and the page says so`, { skip }, async (t) => {
    const { port } = await running(t)
    const { page } = await open(t, port)
    await connect(page)
    const before = await seen(page)
    await page.getByRole('button', { name: 'Kill my worker' }).press('Enter')
    await shows(page, '#log', `Worker ${before.worker} was killed; worker`)
    const now = await servedByAnother(page, before)
    assert.equal(now.slot, before.slot)
    // Nobody else's worker changed.
    assert.deepEqual(now.pids, before.pids.with(before.slot, now.worker))
    const told = now.log.slice(before.log.length).join('\n')
    const killed = `Worker ${before.worker} was killed; worker ${now.worker} took over its slot ${now.slot} after \\d+\\.\\d s\\.`
    assert.match(told, new RegExp(killed))
    assert.ok(told.includes(`Worker ${before.worker} is gone.`), told)
    assert.ok(told.includes(`Worker ${now.worker} serves this browser now, in the same slot ${now.slot}`), told)
  })
}

/** How high the plots are, with what is in them and without. */
function heights(page) {
  return page.locator('.plots').evaluate((plots) => {
    const full = plots.offsetHeight
    for (const part of plots.querySelectorAll('.plot-area, .keys')) part.replaceChildren()
    return [full, plots.offsetHeight]
  })
}

/** What a plot looks like. */
function drawn(page, plot) {
  return page.locator(`#plot-${plot} canvas`).evaluate((canvas) => canvas.toDataURL())
}

/** Waits until a plot looks different. */
function redrawn(page, plot, before) {
  return page.waitForFunction(
    ([selector, was]) => document.querySelector(selector).toDataURL() !== was,
    [`#plot-${plot} canvas`, before],
  )
}

/** Waits until the latest point of a plot is between two figures. */
function reaches(page, plot, least, most = Infinity) {
  return page.waitForFunction(
    ([id, from, to]) => {
      const { textContent } = document.getElementById(id)
      return Number(textContent) >= from && (to === null || Number(textContent) <= to)
    },
    [plot, least, most === Infinity ? null : most],
  )
}

test('the plots follow the clients that come, and those that wait', { skip }, async (t) => {
  const { port } = await running(t)
  const { page, errors } = await open(t, port)
  await overWebSocket(page)
  await reaches(page, 'rate', 0)
  assert.deepEqual(await page.locator('#keys .key').allTextContents(), ['0', '1', '2', '3'])
  const before = {}
  for (const plot of ['rate', 'waiting', 'share']) before[plot] = await drawn(page, plot)
  const load = new Load(Number(port), 40)
  t.after(() => load.stop())
  await reaches(page, 'rate', 20)
  await redrawn(page, 'rate', before.rate)
  await redrawn(page, 'share', before.share)
  // Another worker than the page's own, so that the page sees how its clients wait.
  const { worker, pids } = await seen(page)
  signal(
    pids.find((pid) => pid !== worker),
    'SIGKILL',
  )
  await reaches(page, 'waiting', 1)
  await redrawn(page, 'waiting', before.waiting)
  await load.stop()
  await reaches(page, 'rate', 0, 2)
  const light = await drawn(page, 'rate')
  await page.emulateMedia({ colorScheme: 'dark' })
  await redrawn(page, 'rate', light)
  assert.deepEqual(errors, [])
})

for (const [name, options] of [
  ['a phone', { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, colorScheme: 'dark' }],
  ['a desktop', { viewport: { width: 1280, height: 800 }, colorScheme: 'light' }],
]) {
  test(`the page fits ${name}, without an error in the console`, { skip }, async (t) => {
    const { demo, port } = await running(t)
    // So that the log has its longest line.
    await settled(demo)
    const { page, errors } = await open(t, port, options)
    await overWebSocket(page)
    await shows(page, '#log', 'Cluster reloaded:')
    const { content, visible } = await page.evaluate(() => ({
      content: document.documentElement.scrollWidth,
      visible: window.innerWidth,
    }))
    assert.ok(content <= visible, `${content} pixels wide where there are ${visible}`)
    await reaches(page, 'rate', 0)
    const plots = await page.locator('.plot canvas').all()
    assert.equal(plots.length, 3)
    for (const plot of plots) {
      const { x, width, height } = await plot.boundingBox()
      assert.ok(x >= 0 && width > 200 && x + width <= visible && height === 120, `${x}, ${width}, ${height}`)
    }
    // What is below did not move as they came.
    const [full, empty] = await heights(page)
    assert.equal(full, empty)
    assert.deepEqual(errors, [])
  })
}

// A terminal sends Ctrl+C to every process itself.
function ctrlC(pids) {
  for (const pid of pids) signal(pid, 'SIGINT')
}

for (const [name, processes, end] of [
  ['SIGTERM', settled, ([pid]) => signal(pid, 'SIGTERM')],
  ['Ctrl+C', settled, ctrlC],
  ['Ctrl+C while the workers start', (demo) => [demo.pid, ...descendants(demo.pid)], ctrlC],
]) {
  test(`${name} ends the demo and its workers`, async (t) => {
    const { demo } = await running(t)
    const pids = await processes(demo)
    const closed = once(demo.child, 'close')
    end(pids)
    assert.deepEqual(await closed, [0, null], demo.stderr)
    for (const pid of pids) assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
    assert.equal(demo.stderr, '')
  })
}

test('a port in use is told, with exit code 1', async (t) => {
  const { port } = await running(t)
  const second = start(t, DEMO, { env: { PORT: port } })
  // And not when it exited: what it said may arrive later.
  assert.deepEqual(await once(second.child, 'close'), [1, null])
  assert.match(second.stderr, new RegExp(`^The demo cannot start: port ${port} is in use\\. .*PORT=\\d+ npm start\n$`))
})
