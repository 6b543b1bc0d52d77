'use strict'

// The documentation: every block of code is run, or checked as far as it can be; what is said of the API, the options and
// the errors is compared with the code; every link leads somewhere.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')
const { describe, test: nodeTest } = require('node:test')
const { request } = require('./support/client')
const { checkConfiguration } = require('./support/configurations')
const {
  ROOT,
  allPages,
  blocksOf,
  fieldTables,
  headingsOf,
  prose,
  read,
  sectionOf,
  slug,
  userPages,
} = require('./support/markdown')
const { freePort } = require('./support/places')
const { signal } = require('./support/process')
const { check, place, programsOf, run, served, sticky } = require('./support/programs')
const { has } = require('./support/tools')
const { balancerOptions } = require('../lib/options')

const test = (name, body) => nodeTest(name, { timeout: 60_000 }, body)

// Pages whose code has a test of its own.
const TESTED_BY = { 'docs/metrics.md': '__test__/metrics.test.js' }

const blocks = userPages()
  .filter((page) => !(page in TESTED_BY))
  .flatMap(blocksOf)
const isJavaScript = ({ language }) => /^(js|javascript|cjs|mjs|ts|typescript)$/.test(language)

// ---- Blocks of code ----

describe('blocks of JavaScript', { concurrency: 2 }, () => {
  for (const page of userPages()) {
    for (const program of programsOf(blocks.filter((block) => block.page === page && isJavaScript(block)))) {
      test(program.name, (t) => check(t, program))
    }
  }
})

describe('other blocks', () => {
  for (const block of blocks.filter((block) => !isJavaScript(block))) {
    test(`${block.page}:${block.line} (${block.language})`, (t) => checkConfiguration(t, block))
  }
})

test('a page whose code is not run here is read by the test that runs it', () => {
  for (const [page, file] of Object.entries(TESTED_BY)) {
    if (userPages().includes(page)) assert.ok(read(file).includes(path.basename(page)), `${file} does not read ${page}`)
  }
})

// ---- Deployment ----

const deployment = programsOf(blocks.filter((block) => block.page === 'docs/deployment.md' && isJavaScript(block)))

/** Answers at this port, by workers of this program. */
async function serves(running, port) {
  await running.until(() =>
    request(port).then(
      ({ status }) => status === 200,
      () => false,
    ),
  )
  await sticky(running, (localAddress) => request(port, { localAddress }))
}

test('deployment: Ctrl+C, which all processes get, workers first, ends all', async (t) => {
  const running = run(t, place(t, deployment[0].files))
  await served(running)
  for (const pid of running.workers()) signal(pid, 'SIGINT')
  await running.until(() => running.workers().length === 0)
  signal(running.child.pid, 'SIGINT')
  assert.deepEqual(await running.exited, { code: 0, by: null }, running.output)
})

test('deployment: systemd-socket-activate hands the socket over', async (t) => {
  if (!has(t, 'systemd-socket-activate')) return
  const port = await freePort('127.0.0.1')
  const folder = place(t, deployment[0].files)
  // It passes on no variable that is not named, and no descriptor but the socket: so nothing reports.
  const running = run(t, folder, {
    command: ['systemd-socket-activate', `--listen=127.0.0.1:${port}`, '--setenv=WORKERS=1'],
    env: { NODE_OPTIONS: '' },
  })
  await serves(running, port)
  signal(running.child.pid, 'SIGTERM')
  assert.deepEqual(await running.exited, { code: 0, by: null }, running.output)
})

test('deployment: who comes while a service with a socket of systemd restarts is served by the next', async (t) => {
  const folder = place(t, deployment[0].files)
  // A socket that is bound here, and listens once a primary says so: as systemd's, it outlives each primary.
  const server = net.createServer().listen({ port: 0, host: '127.0.0.1' })
  await once(server, 'listening')
  const socket = new server._handle.constructor(0)
  server.close()
  t.after(() => socket.close())
  assert.equal(socket.bind('127.0.0.1', 0), 0)
  const address = {}
  socket.getsockname(address)
  const start = () => run(t, folder, { fd3: socket.fd, env: { LISTEN_FDS: '1', WORKERS: '1' } })

  const first = start()
  await served(first)
  await serves(first, address.port)
  signal(first.child.pid, 'SIGTERM')
  assert.deepEqual(await first.exited, { code: 0, by: null }, first.output)
  const meanwhile = request(address.port)
  const second = start()
  await served(second)
  const { status, body } = await meanwhile
  assert.equal(status, 200)
  assert.ok(second.workers().includes(Number(body.match(/\d+/)[0])))
})

test('deployment: PM2 starts the primary, once and without forking it', (t) => {
  const { files } = deployment.find(({ files }) => files.has('ecosystem.config.js'))
  const { apps } = require(path.join(place(t, files), 'ecosystem.config.js'))
  const [{ script, exec_mode, instances }] = apps
  assert.deepEqual({ script, exec_mode, instances }, { script: 'cluster.js', exec_mode: 'fork', instances: 1 })
})

// ---- What is said of the code ----

const types = read('index.d.ts')

/** The declaration of an interface or class, between its braces. */
function declared(kind, name) {
  const body = types.match(new RegExp(`^ {2}${kind} ${name}\\b[^{]*\\{\\n([\\s\\S]*?)^ {2}\\}`, 'm'))
  assert.ok(body, `index.d.ts has no ${kind} ${name}`)
  return body[1].replace(/\/\*\*[\s\S]*?\*\//g, '')
}

/** The fields of an interface, and their types. That one which may be missing may be undefined too goes without saying. */
function fieldsOf(name) {
  const fields = declared('interface', name).matchAll(/^ {4}(\w+)(?:\?: (.+?)(?: \| undefined)?|: (.+))$/gm)
  return [...fields].map(([, field, optional, required]) => [field, optional ?? required])
}

const interfaces = [...types.matchAll(/^ {2}interface (\w+)/gm)].map(([, name]) => name)
const events = fieldsOf('BalancerEvents').map(([event]) => event)

const sorted = (list) => [...list].sort()

test('docs/api.md and docs/options.md have the fields of every interface, with their types, and no others', () => {
  const tables = new Map([...fieldTables('docs/api.md'), ...fieldTables('docs/options.md')])
  // The options have a page, the events a section each.
  const described = interfaces.filter((name) => !['BalancerOptions', 'BalancerEvents'].includes(name))
  assert.deepEqual(sorted(tables.keys()), sorted(described))
  for (const [name, rows] of tables) {
    const documented = rows.map(([field, type]) => [field.replaceAll('`', ''), type.replaceAll('`', '')])
    assert.deepEqual(documented, fieldsOf(name), name)
  }
})

test('docs/api.md has a section for every function, member and event, and for nothing else', () => {
  const headings = headingsOf('docs/api.md')
  const calls = (level) => headings.filter((heading) => heading.level === level).map(({ text }) => text.split('(')[0])
  const functions = new Set([...types.matchAll(/^ {2}function (\w+)/gm)].map(([, name]) => name))
  const classes = [...types.matchAll(/^ {2}class (\w+)/gm)].map(([, name]) => `Class: ${name}`)
  assert.deepEqual(
    sorted(calls(2)),
    sorted([...functions, ...classes, 'Diagnostics channels', 'Warnings', 'Debugging']),
  )

  const members = new Set(
    [...declared('class', 'Balancer').matchAll(/^ {4}(?:readonly )?(\w+)[(:]/gm)].map(([, m]) => m),
  )
  // The listeners' types are those of the events.
  for (const other of [
    'constructor',
    'addListener',
    'on',
    'once',
    'prependListener',
    'prependOnceListener',
    'removeListener',
    'off',
  ])
    members.delete(other)
  // Of net.Server, and worth words of their own.
  members.add('close')
  assert.deepEqual(
    sorted(calls(3)),
    sorted([...[...members].map((member) => `balancer.${member}`), ...events.map((event) => `Event: '${event}'`)]),
  )
})

test('docs/api.md has the reasons for which a worker ends, and the channels', () => {
  const page = read('docs/api.md')
  const [, reasons] = types.match(/type EndReason = (.+)/)
  for (const reason of reasons.split(' | ')) assert.ok(page.includes(`\`${reason}\``), reason)
  const channels = (text) => sorted(new Set(text.match(/sticky-listen:\w+/g)))
  assert.deepEqual(channels(sectionOf('docs/api.md', 'Diagnostics channels')), channels(read('lib/primary/events.js')))
})

test('docs/options.md has every option, with its type and the default of lib/options.js, and no others', () => {
  const defaults = balancerOptions(undefined, undefined)
  // Which the page puts into words.
  const inWords = {
    affinity: /^`'address'`/,
    takeOver: /^none/,
    activeWorkers: /^the workers of `node:cluster`/,
    seed: /^random/,
    trustProxy: /^everybody is trusted/,
  }
  const options = fieldsOf('BalancerOptions')
  const headings = headingsOf('docs/options.md').filter(({ level }) => level === 2)
  assert.deepEqual(sorted(headings.map(({ text }) => text)), sorted(options.map(([option]) => option)))
  for (const [option, type] of options) {
    const [, said, standard] = sectionOf('docs/options.md', option).match(
      /^Type: `([^`]+)`(?:, [^.]*)?\. Default: (.+)/m,
    )
    const declaredType =
      type === 'ActiveWorkers' ? types.match(/type ActiveWorkers = (.+)/)[1] : type.replace("'auto'", "'auto'")
    assert.equal(said, declaredType, option)
    if (inWords[option]) assert.match(standard, inWords[option])
    else
      assert.equal(standard, `${JSON.stringify(defaults[option]).replaceAll('"', "'").replace(/^|$/g, '`')}.`, option)
  }
})

/** Every code that the code has. */
function codes() {
  const files = ['errors.js', 'warnings.js'].map((file) => read(path.join('lib', file)))
  return new Set(files.flatMap((text) => [...text.matchAll(/'((?:ERR|STICKY)(?:_[A-Z]+)+)'/g)].map(([, code]) => code)))
}

test('docs/errors.md has a section for every code, and no others', () => {
  const sections = headingsOf('docs/errors.md').filter(({ level }) => level === 2)
  assert.deepEqual(sorted(sections.map(({ text }) => text)), sorted(codes()))
  for (const { text } of sections) {
    const section = sectionOf('docs/errors.md', text)
    assert.match(section, /^\*\*Means:\*\*/m, text)
    assert.match(section, /^\*\*(Do|Why and what to do|Why, and what to do):\*\*/m, text)
  }
})

test('the address in a message is that of the section', () => {
  const { readOn } = require('../lib/help')
  const anchors = new Set(headingsOf('docs/errors.md').map(({ text }) => slug(text)))
  for (const code of codes()) {
    const [, file, anchor] = readOn(code).match(/\/blob\/main\/(.+)#(.+)$/)
    assert.ok(fs.existsSync(path.join(ROOT, file)))
    assert.ok(anchors.has(anchor), anchor)
  }
})

// ---- Links ----

test('every link within the repository leads somewhere', () => {
  for (const page of allPages()) {
    for (const [, target] of prose(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [file, anchor] = target.split('#')
      const to = file ? path.join(path.dirname(page), file) : page
      assert.ok(fs.existsSync(path.join(ROOT, to)), `${page}: ${target}`)
      if (!anchor) continue
      const anchors = headingsOf(to).map(({ text }) => slug(text))
      assert.ok(anchors.includes(anchor), `${page}: ${target}`)
    }
  }
})

test('what SECURITY.md names is there: files, and tests by words of their names', () => {
  const page = prose('SECURITY.md')
  const files = [...page.matchAll(/`((?:src|scripts|fuzz|\.github)\/[\w./-]*)`/g)]
  const tests = [...page.matchAll(/`([a-z/-]+)`((?:,? "[^"]+")+)/g)]
  assert.ok(files.length > 10 && tests.length > 20, `${files.length} files, ${tests.length} tests`)
  for (const [, file] of files) assert.ok(fs.existsSync(path.join(ROOT, file)), file)
  for (const [, name, words] of tests) {
    const test = read(`__test__/${name}.test.js`)
    for (const [, some] of words.matchAll(/"([^"]+)"/g)) assert.ok(test.includes(some), `${name}: ${some}`)
  }
})

test('docs/README.md leads to every page', () => {
  const index = read('docs/README.md')
  for (const page of userPages().filter((page) => page.startsWith('docs/') && page !== 'docs/README.md')) {
    assert.ok(index.includes(`(${path.relative('docs', page)})`), page)
  }
})
