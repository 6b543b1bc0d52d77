'use strict'

// The recipe for metrics does what docs/metrics.md says: a real Prometheus reads them, and every block of code there is run.

const assert = require('node:assert/strict')
const diagnostics = require('node:diagnostics_channel')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const { test } = require('node:test')
const { metrics: openTelemetry } = require('@opentelemetry/api')
const { MeterProvider, MetricReader } = require('@opentelemetry/sdk-metrics')
const { Registry } = require('prom-client')
const watch = require('../examples/metrics/metrics')
const dashboard = require('../examples/metrics/dashboard.json')
const { loopback, parallel, request, until } = require('./support/client')
const { directory } = require('./support/places')
const { signal, start } = require('./support/process')
const { promtool, startPrometheus } = require('./support/prometheus')
const { kernelSteers } = require('./support/steering')
const { has } = require('./support/tools')
const { TIMEOUT, balancing, listening } = require('./support/worker-server')

const DOCS = fs.readFileSync(path.join(__dirname, '..', 'docs', 'metrics.md'), 'utf8')

const CLIENTS = 60

/** The blocks of the documentation in a language. */
function blocks(language) {
  return [...DOCS.matchAll(/^```(\w+)\n(.*?)^```$/gms)].flatMap(([, of, code]) => (of === language ? [code] : []))
}

/** Runs a block of the documentation, and returns what it names. */
function run(code, balancer, names, console = globalThis.console) {
  const local = (module) => require(module === './metrics' ? '../examples/metrics/metrics' : module)
  return new Function('require', 'balancer', 'console', `${code}\nreturn { ${names} }`)(local, balancer, console)
}

/** A balancer with two slots that have workers and one that has none, which is refused at once. */
async function unlucky(t) {
  const slots = await Promise.all([listening(t, 'http'), listening(t, 'http'), null])
  const balancer = await balancing(t, slots, { maxRetries: 0 })
  await until(() => balancer.stats().slots.filter(({ pid }) => pid).length === 2)
  return { slots, balancer }
}

/** A request from each of some addresses; the statuses of the answers. */
async function visit(balancer) {
  const statuses = []
  const before = balancer.stats()
  await parallel(CLIENTS, 8, async (n) => {
    const { status } = await request(balancer.address().port, { localAddress: loopback(n) })
    statuses.push(status)
  })
  // Workers say so soon.
  await until(() => {
    const { adopted, refused } = balancer.stats()
    return adopted + refused === before.adopted + before.refused + CLIENTS
  })
  return statuses
}

/** The lines of metrics by their names with labels, as prom-client has them. */
async function valuesOf(register) {
  const values = new Map()
  for (const { name, type, values: lines } of await register.getMetricsAsJSON()) {
    for (const { metricName = name, labels, value } of lines) {
      values.set(`${metricName} ${JSON.stringify(labels)}`, { type, value })
    }
  }
  return values
}

/** Every line that a scrape has to have, by the balancer's own account, except for the uptime. */
function expected({ waits, slots, steering, ...stats }, refused) {
  const lines = new Map()
  const add = (name, value, labels = {}) => lines.set(lineName(`sticky_listen_${name}`, labels), value)
  for (const total of ['accepted', 'adopted', 'redelivered', 'rejected', 'gone']) add(`${total}_total`, stats[total])
  for (const now of ['identifying', 'waiting']) add(now, stats[now])
  for (const [slot, { pid, steering: now, waiting, inFlight, adopted }] of slots.entries()) {
    add('slot_up', pid ? 1 : 0, { slot })
    add('slot_steered', now === 'kernel' ? 1 : 0, { slot })
    add('slot_waiting', waiting, { slot })
    add('slot_in_flight', inFlight, { slot })
    add('slot_adopted_total', adopted, { slot })
  }
  for (const slot of ['none', ...slots.keys()]) {
    for (const status of [502, 503, 'closed']) {
      add('refused_total', slot === 2 && status === 502 ? refused : 0, { slot, status })
    }
  }
  add('steering_info', 1, steering)
  let count = 0
  for (const [bucket, more] of waits.counts.entries()) {
    count += more
    add('wait_seconds_bucket', count, { le: waits.bounds[bucket] ? waits.bounds[bucket] / 1000 : '+Inf' })
  }
  add('wait_seconds_count', count)
  add('wait_seconds_sum', waits.sum / 1000)
  return lines
}

function lineName(name, labels) {
  const text = Object.entries(labels).map(([label, value]) => `${label}=${JSON.stringify(`${value}`)}`)
  return `${name}{${text.sort().join(', ')}}`
}

// Prometheus waits for five seconds before it scrapes at all.
const PATIENCE = { timeout: 60_000 }

test('Prometheus reads of a balancer what stats() says, and answers the dashboard', PATIENCE, async (t) => {
  if (!has(t, 'prometheus')) return
  const { balancer } = await unlucky(t)
  const [, recipe] = blocks('js')
  // It listens already, but refused nothing yet.
  const { metrics } = run(recipe.replace('9464', '0'), balancer, 'metrics')
  t.after(() => metrics.close())
  if (!metrics.listening) await once(metrics, 'listening')
  const ask = await startPrometheus(t, metrics.address().port)

  const refused = (await visit(balancer)).filter((status) => status === 502).length
  assert.ok(refused > 0 && refused < CLIENTS, `${refused}`)
  await until(async () => (await ask('sum(sticky_listen_refused_total)'))[0].value === refused)
  const stats = balancer.stats()
  assert.equal(stats.refused, refused)
  await until(async () => (await ask('sticky_listen_adopted_total'))[0].value === stats.adopted)
  const lines = new Map()
  for (const { metric, value } of await ask('{__name__=~"sticky_listen_.*"}')) {
    const { __name__: name, job, instance, ...labels } = metric
    lines.set(lineName(name, labels), value)
  }
  const uptime = lines.get('sticky_listen_uptime_seconds{}')
  assert.ok(uptime > 0 && uptime < 20, `${uptime}`)
  lines.delete('sticky_listen_uptime_seconds{}')
  assert.deepEqual(new Map([...lines].sort()), new Map([...expected(stats, refused)].sort()))

  const text = await request(metrics.address().port, { path: '/metrics' })
  assert.match(text.headers['content-type'], /^text\/plain; version=0\.0\.4/)
  assert.equal(await promtool(['check', 'metrics'], text.body), '')
  assert.match(text.body, /^# TYPE sticky_listen_wait_seconds histogram$/m)

  const targets = dashboard.panels.flatMap((panel) => panel.targets)
  assert.ok(targets.length > dashboard.panels.length)
  for (const { expr } of targets) {
    for (const [name] of expr.matchAll(/sticky_listen_\w+/g)) assert.match(text.body, new RegExp(`^${name}[ {]`, 'm'))
    const query = expr.replaceAll(/\$(job|instance)/g, '.+').replaceAll('$__rate_interval', '30s')
    assert.doesNotMatch(query, /\$/)
    const answer = await ask(query)
    assert.ok(answer.length > 0, `nothing for ${query}`)
    for (const { value } of answer) assert.ok(Number.isFinite(value), `${value} for ${query}`)
  }
})

test('the metrics of a version that is superseded leave their port to the next one', TIMEOUT, async (t) => {
  const [, recipe] = blocks('js')
  const before = net.createServer().listen(0, '127.0.0.1')
  await once(before, 'listening')
  const { port } = before.address()
  const takeOver = path.join(directory(t), 'balancer.sock')
  const version = async () => {
    const balancer = await balancing(t, [await listening(t, 'http')], { takeOver })
    const { metrics } = run(recipe.replace('9464', `${port}`), balancer, 'metrics')
    t.after(() => metrics.close())
    return metrics
  }
  const first = await version()
  await once(first, 'error')
  before.close()
  await once(first, 'listening')
  const second = await version()
  await until(() => second.listening)
  assert.equal(first.listening, false)
  assert.equal((await request(port, { path: '/metrics' })).status, 200)
})

test('the counters go on over close() and listen()', TIMEOUT, async (t) => {
  const { slots, balancer } = await unlucky(t)
  const register = new Registry()
  watch(balancer, register)
  const counters = async () => [...(await valuesOf(register))].filter(([, { type }]) => type !== 'gauge')
  const seen = [new Map(await counters())]
  const look = async () => {
    const last = seen[seen.length - 1]
    const now = new Map(await counters())
    for (const [name, { value }] of last) assert.ok(now.get(name).value >= value, `${name} fell`)
    seen.push(now)
    return now
  }
  await visit(balancer)
  await look()
  // What comes in after the last scrape, too.
  await visit(balancer)
  for (const _ of [1, 2]) {
    balancer.close()
    await once(balancer, 'close')
    assert.equal((await valuesOf(register)).get('sticky_listen_uptime_seconds {}').value, 0)
    assert.doesNotMatch(await register.metrics(), /^sticky_listen_steering_info\{/m)
    await look()
    balancer.listen(0, '127.0.0.1')
    await once(balancer, 'listening')
    await look()
    await until(() => balancer.stats().slots.filter(({ pid }) => pid).length === 2)
    await visit(balancer)
    await visit(balancer)
  }
  // A slot less, and one more again.
  const removed = slots.pop()
  slots[0].call('look', 'server')
  await until(() => balancer.stats().slots.length === 2)
  await look()
  slots.push(removed)
  slots[0].call('look', 'server')
  await until(() => balancer.stats().slots.length === 3)
  const { adopted, refused } = balancer.stats()
  assert.equal(adopted + refused, 6 * CLIENTS)
  const sum = (lines, name) =>
    [...lines].reduce((all, [line, { value }]) => (line.startsWith(`${name} `) ? all + value : all), 0)
  await until(async () => sum(await look(), 'sticky_listen_refused_total') === refused)
  const last = await look()
  assert.equal(sum(last, 'sticky_listen_adopted_total'), adopted)
  assert.equal(sum(last, 'sticky_listen_slot_adopted_total'), adopted)
})

test('the metrics are those of OpenMetrics as well', TIMEOUT, async (t) => {
  const { balancer } = await unlucky(t)
  const register = new Registry(Registry.OPENMETRICS_CONTENT_TYPE)
  watch(balancer, register)
  await visit(balancer)
  const text = await register.metrics()
  assert.match(text, new RegExp(`^sticky_listen_accepted_total ${CLIENTS}$`, 'm'))
  assert.match(text, /^sticky_listen_wait_seconds_bucket\{le="\+Inf"\} \d+$/m)
  assert.match(text, /# EOF\n$/)
})

test('the dashboard asks the data source that is chosen, each panel in a place of its own', () => {
  const { panels, templating, schemaVersion } = dashboard
  assert.equal(schemaVersion, 42)
  assert.deepEqual(
    templating.list.map(({ name }) => name),
    ['datasource', 'job', 'instance'],
  )
  const chosen = { type: 'prometheus', uid: `\${datasource}` }
  const cells = new Set()
  for (const { title, datasource, gridPos, targets } of panels) {
    for (const asked of [datasource, ...targets.map((target) => target.datasource)]) assert.deepEqual(asked, chosen)
    const { x, y, w, h } = gridPos
    assert.ok(x + w <= 24)
    for (let cell = 0; cell < w * h; cell++) {
      const place = `${x + (cell % w)} ${y + Math.floor(cell / w)}`
      assert.ok(!cells.has(place), `${title} covers another panel`)
      cells.add(place)
    }
  }
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
})

// What the alerts say.
const REFUSED = 'a refused 5 connections in 5 minutes (502)'
const DOWN = 'Slot 0 of a has no worker: its clients wait, or are refused'
const WAITING = '100 connections of a or more wait for a worker, and ever more do'

test('the alerts are valid, and fire when they should', TIMEOUT, async (t) => {
  if (!has(t, 'promtool')) return
  const folder = directory(t)
  const [rules, ...others] = blocks('yaml')
  assert.deepEqual(others, [])
  fs.writeFileSync(path.join(folder, 'rules.yml'), rules)
  assert.match(await promtool(['check', 'rules', path.join(folder, 'rules.yml')]), /SUCCESS: 3 rules found/)

  const at = { job: 'app', instance: 'a' }
  const series = (name, labels, values) => ({ series: `sticky_listen_${lineName(name, { ...at, ...labels })}`, values })
  const fires = (alertname, eval_time, severity, labels, summary) => ({
    alertname,
    eval_time,
    exp_alerts: [{ exp_labels: { severity, ...at, ...labels }, exp_annotations: { summary } }],
  })
  const quiet = (alertname, eval_time) => ({ alertname, eval_time, exp_alerts: [] })
  const story = {
    interval: '15s',
    input_series: [
      series('refused_total', { slot: '0', status: '502' }, '0x7 5x80'),
      series('refused_total', { slot: '0', status: '503' }, '0x87'),
      series('slot_up', { slot: '0' }, '1x7 0x80'),
      series('slot_up', { slot: '1' }, '1x7 0 1x79'),
      series('waiting', {}, '0x7 20+10x20 0x80'),
    ],
    alert_rule_test: [
      ...['Refuses', 'SlotWithoutWorker', 'WaitingGrows'].map((name) => quiet(`StickyListen${name}`, '105s')),
      fires('StickyListenRefuses', '4m', 'warning', { status: '502' }, REFUSED),
      quiet('StickyListenRefuses', '10m'),
      quiet('StickyListenSlotWithoutWorker', '2m'),
      fires('StickyListenSlotWithoutWorker', '4m', 'critical', { slot: '0' }, DOWN),
      fires('StickyListenWaitingGrows', '6m', 'warning', {}, WAITING),
      quiet('StickyListenWaitingGrows', '10m'),
    ],
  }
  const file = path.join(folder, 'tests.yml')
  // JSON is YAML.
  fs.writeFileSync(file, JSON.stringify({ rule_files: ['rules.yml'], evaluation_interval: '15s', tests: [story] }))
  await promtool(['test', 'rules', file])
})

test('the documented listeners tell of refusals, and of workers that go', TIMEOUT, async (t) => {
  const { slots, balancer } = await unlucky(t)
  const said = []
  const note = (line) => said.push(line)
  const subscribe = t.mock.method(diagnostics, 'subscribe')
  const [events] = blocks('js')
  run(events, balancer, '', { log: note, error: note })
  t.after(() => diagnostics.unsubscribe(...subscribe.mock.calls[0].arguments))
  const { port } = balancer.address()
  await visit(balancer)
  await until(() => said.some((line) => /^\d+ connections refused with 502 in slot 2: it has no worker$/.test(line)))
  signal(slots[0].pid, 'SIGKILL')
  await until(() => said.includes(`slot 0 of port ${port}: worker ${slots[0].pid} is down (closed)`))
})

test('the documented hooks feed OpenTelemetry', TIMEOUT, async (t) => {
  class Reader extends MetricReader {
    async onShutdown() {}
    async onForceFlush() {}
  }
  const reader = new Reader()
  openTelemetry.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }))
  t.after(() => openTelemetry.disable())
  const subscribe = t.mock.method(diagnostics, 'subscribe')
  const { balancer } = await unlucky(t)
  const [, , hooks, ...others] = blocks('js')
  assert.deepEqual(others, [])
  run(hooks, balancer, '')
  t.after(() => diagnostics.unsubscribe(...subscribe.mock.calls[0].arguments))
  const points = async () => {
    const { resourceMetrics, errors } = await reader.collect()
    assert.deepEqual(errors, [])
    const [{ metrics }] = resourceMetrics.scopeMetrics
    return Object.fromEntries(
      metrics.map(({ descriptor, dataPoints }) => [
        descriptor.name,
        dataPoints.map(({ value, attributes }) => ({ value, ...attributes })),
      ]),
    )
  }
  const refused = (await visit(balancer)).filter((status) => status === 502).length
  await until(async () => (await points())['sticky_listen.refused']?.[0].value === refused)
  const { adopted } = balancer.stats()
  assert.deepEqual(await points(), {
    'sticky_listen.adopted': [{ value: adopted }],
    'sticky_listen.waiting': [0, 1, 2].map((slot) => ({ value: 0, slot })),
    'sticky_listen.slot.up': [1, 1, 0].map((value, slot) => ({ value, slot })),
    'sticky_listen.refused': [{ value: refused, slot: 2, status: 502 }],
  })
})

test('the example serves its metrics', TIMEOUT, async (t) => {
  const example = start(t, '../../examples/metrics/cluster.js', { env: { PORT: '0', METRICS_PORT: '0' } })
  const port = (what) =>
    until(() => {
      assert.equal(example.child.exitCode, null, example.stderr)
      return new RegExp(`^${what} http://localhost:(\\d+)`, 'm').exec(example.stdout)?.[1]
    })
  const [served, metrics] = await Promise.all([port('The workers answer at'), port('The metrics are at')])
  const scrape = async () => (await request(Number(metrics), { path: '/metrics' })).body
  await until(async () => (await scrape()).match(/^sticky_listen_slot_up\{slot="\d"\} 1$/gm)?.length === 4)
  const answers = new Set()
  await parallel(CLIENTS, 8, async (n) => {
    answers.add((await request(Number(served), { localAddress: loopback(n) })).body)
  })
  assert.equal(answers.size, 4)
  await until(async () => (await scrape()).includes(`sticky_listen_adopted_total ${CLIENTS}\n`))
  const text = await scrape()
  assert.match(text, new RegExp(`^sticky_listen_steering_info\\{mode="${kernelSteers ? 'kernel' : 'handover'}"`, 'm'))
  assert.equal((await request(Number(metrics), { path: '/' })).status, 404)
  if (has(t, 'promtool')) assert.equal(await promtool(['check', 'metrics'], text), '')
})
