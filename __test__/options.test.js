'use strict'

// What createBalancer() and its options take, refuse and warn about.

const assert = require('node:assert/strict')
const cluster = require('node:cluster')
const { once } = require('node:events')
const net = require('node:net')
const { test } = require('node:test')
const recluster = require('recluster')
const { Balancer, createBalancer, listen } = require('..')
const { balancerOptions, listenOptions } = require('../lib/options')
const { KINDS } = require('./support/worker-server')

const none = () => []

test('a balancer is a net.Server, with no activeWorkers too', () => {
  for (const balancer of [
    createBalancer(none),
    createBalancer({ activeWorkers: none }),
    createBalancer(),
    createBalancer(none, {}),
  ]) {
    assert.ok(balancer instanceof net.Server)
    assert.ok(balancer instanceof Balancer)
  }
})

test('a wrong type is a TypeError that names the option and what it got', () => {
  const cases = [
    ['activeWorkers', 'x', /"options\.activeWorkers" property must be a function .*Received type string \('x'\)/],
    ['activeWorkers', null, /Received null/],
    ['retryDelay', '150', /"options\.retryDelay" property must be of type number\. Received type string \('150'\)/],
    ['maxRetries', true, /"options\.maxRetries" .*Received type boolean \(true\)/],
    ['seed', 7, /"options\.seed" .*string or an instance of Uint8Array\. Received type number \(7\)/],
    ['ipv6Prefix', {}, /"options\.ipv6Prefix" .*Received an instance of Object/],
    ['maxPending', [], /"options\.maxPending" .*Received an instance of Array/],
    ['name', none, /"options\.name" .*Received function none/],
    ['takeOver', true, /"options\.takeOver" .*string\. Received type boolean \(true\)/],
    ['behindProxy', 1, /"options\.behindProxy" .*boolean\. Received type number \(1\)/],
    ['proxyProtocol', 'v2', /"options\.proxyProtocol" .*boolean\. Received type string \('v2'\)/],
    ['cipHeader', null, /"options\.cipHeader" .*string\. Received null/],
    ['trustProxy', true, /"options\.trustProxy" .*a number of hops, a string, or an array.*\(true\)/],
    ['trustProxy', ['loopback', 1], /"options\.trustProxy\[\]" .*string\. Received type number \(1\)/],
    ['headerTimeout', '10s', /"options\.headerTimeout" .*number\. Received type string \('10s'\)/],
    ['maxHeaderSize', none, /"options\.maxHeaderSize" .*number\. Received function none/],
    ['affinity', true, /"options\.affinity" property must be 'address', or an object\. Received type boolean \(true\)/],
    ['affinity', null, /"options\.affinity" .*Received null/],
    ['affinity', [], /"options\.affinity" .*Received an instance of Array/],
    ['affinity', { query: 7 }, /"options\.affinity\.query" .*string\. Received type number \(7\)/],
    ['affinity', { cookie: 7 }, /"options\.affinity\.cookie" .*string or object\. Received type number \(7\)/],
    ['affinity', { cookie: null }, /"options\.affinity\.cookie" .*string or object\. Received null/],
    ['affinity', { cookie: {} }, /"options\.affinity\.cookie\.name" .*string\. Received undefined/],
    ['affinity', { cookie: { name: 'x', httpOnly: 1 } }, /"options\.affinity\.cookie\.httpOnly" .*boolean/],
    [
      'affinity',
      { cookie: { name: 'x', secure: 1 } },
      /"options\.affinity\.cookie\.secure" .*one of true, false, 'auto'/,
    ],
    ['affinity', { query: 'sid', fallback: 1 }, /"options\.affinity\.fallback" .*one of 'room', 'address'/],
  ]
  for (const [option, value, message] of cases) {
    const expected = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message }
    assert.throws(() => createBalancer({ activeWorkers: none, [option]: value }), expected, option)
  }
  for (const first of [null, 7, 'x']) {
    assert.throws(() => createBalancer(first), {
      name: 'TypeError',
      code: 'ERR_INVALID_ARG_TYPE',
      message: /"activeWorkers"/,
    })
  }
  assert.throws(() => createBalancer({}, {}), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /"activeWorkers" argument must be a function/,
  })
  for (const options of [7, null, [], () => {}]) {
    const expected = {
      name: 'TypeError',
      code: 'ERR_INVALID_ARG_TYPE',
      message: /"options" argument must be of type object/,
    }
    assert.throws(() => createBalancer(none, options), expected)
    assert.throws(() => createBalancer(undefined, options), expected)
    assert.throws(() => listen(net.createServer(), options), expected)
  }
})

test('a wrong number is a RangeError that names the option, the range and what it got', () => {
  const cases = [
    ['retryDelay', -1, />= 0 && <= 2147483647\. Received -1/],
    ['retryDelay', Number.NaN, /Received NaN/],
    ['retryDelay', Number.POSITIVE_INFINITY, /Received Infinity/],
    ['maxRetries', 1.5, /an integer\. Received 1\.5/],
    ['maxRetries', -1, />= 0/],
    ['ipv6Prefix', 0, />= 1 && <= 128\. Received 0/],
    ['ipv6Prefix', 129, />= 1 && <= 128\. Received 129/],
    ['maxPending', 0, />= 1 && <= 4294967295\. Received 0/],
    ['trustProxy', -1, />= 0 && <= 4294967295\. Received -1/],
    ['trustProxy', 1.5, /an integer\. Received 1\.5/],
    ['headerTimeout', 0, />= 1 && <= 2147483647\. Received 0/],
    ['headerTimeout', Number.POSITIVE_INFINITY, /Received Infinity/],
    ['maxHeaderSize', 255, />= 256 && <= 65536\. Received 255/],
  ]
  for (const [option, value, message] of cases) {
    const expected = { name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message }
    assert.throws(() => createBalancer(none, { [option]: value }), expected, option)
    assert.throws(() => createBalancer(none, { [option]: value }), new RegExp(`"options\\.${option}"`))
  }
})

test('a wrong value is an error that names the option', () => {
  const code = 'ERR_INVALID_ARG_VALUE'
  assert.throws(() => createBalancer(none, { seed: '' }), {
    name: 'TypeError',
    code,
    message: /'options\.seed' must not be empty/,
  })
  for (const cipHeader of ['', 'x forwarded', 'x:y', 'x\r\n']) {
    assert.throws(() => createBalancer(none, { cipHeader }), { code, message: /'options\.cipHeader' must be the name/ })
  }
  for (const [trustProxy, message] of [
    ['', /'options\.trustProxy' must be an address, a CIDR, 'loopback'.*Received ''/],
    ['localhost', /'options\.trustProxy' must be .*Received 'localhost'/],
    ['loopback, 10.0.0', /'options\.trustProxy' must be .*Received '10\.0\.0'/],
    [['10.0.0.0/33'], /'options\.trustProxy\[\]' must be .*Received '10\.0\.0\.0\/33'/],
    [['loopback', 'Loopback'], /'options\.trustProxy\[\]' must be .*Received 'Loopback'/],
    [['::/129'], /'options\.trustProxy\[\]' must be .*Received '::\/129'/],
  ]) {
    assert.throws(() => createBalancer(none, { trustProxy }), { code, message })
  }
  const aMonth = 31 * 24 * 3600 * 1000
  for (const [affinity, message] of [
    ['session', /'options\.affinity' must be 'address', or an object\. Received 'session'/],
    [{}, /'options\.affinity' must name where requests show their session.*\. Received \{\}/],
    [{ fallback: 'room' }, /'options\.affinity' must name where/],
    [{ query: '' }, /'options\.affinity\.query' must not be empty/],
    [{ query: 'sid', fallback: 'hash' }, /'options\.affinity\.fallback' must be one of: 'room', 'address'/],
    [{ cookie: 'a b' }, /'options\.affinity\.cookie' must be the name of a cookie\. Received 'a b'/],
    [{ cookie: { name: 'a=b' } }, /'options\.affinity\.cookie\.name' must be the name of a cookie/],
    [{ cookie: { name: 'a', path: '/; Domain=x' } }, /'options\.affinity\.cookie\.path' must be visible ASCII/],
    [{ cookie: { name: 'a', path: 'app' } }, /'options\.affinity\.cookie\.path' must begin with a slash/],
    [{ cookie: { name: 'a', domain: 'x\r\n' } }, /'options\.affinity\.cookie\.domain' must be visible ASCII/],
    [{ cookie: { name: 'a', sameSite: 'Lax' } }, /'options\.affinity\.cookie\.sameSite' must be one of: 'lax'/],
    [{ cookie: { name: 'a', secure: 'always' } }, /'options\.affinity\.cookie\.secure' must be one of: true, false/],
    [{ cookie: { name: 'a', sameSite: 'none', secure: false } }, /sameSite' needs a cookie that is secure/],
  ]) {
    assert.throws(() => createBalancer(none, { affinity }), { code, message }, JSON.stringify(affinity))
  }
  assert.throws(() => createBalancer(none, { affinity: { cookie: { name: 'a', maxAge: aMonth } } }), {
    code: 'ERR_OUT_OF_RANGE',
    message: /"options\.affinity\.cookie\.maxAge".*>= 1 && <= 34560000\. Received 2678400000/,
  })
  assert.throws(() => createBalancer(none, { name: '' }), { code, message: /'options\.name' must not be empty/ })
  assert.throws(() => createBalancer(none, { activeWorkers: () => [] }), { code, message: /'options\.activeWorkers'/ })
})

test('all that is documented is taken', async () => {
  for (const options of [
    { retryDelay: 0, maxRetries: 0 },
    { retryDelay: 0.5, maxRetries: Number.POSITIVE_INFINITY },
    { seed: 'x' },
    { seed: Buffer.from([0]) },
    { seed: new Uint8Array(64) },
    { ipv6Prefix: 1 },
    { ipv6Prefix: 128 },
    { maxPending: 1 },
    { name: 'admin' },
    { behindProxy: true, cipHeader: 'CF-Connecting-IP' },
    { behindProxy: false, proxyProtocol: true },
    { trustProxy: 0 },
    { trustProxy: 'loopback, linklocal,uniquelocal' },
    { trustProxy: ['10.0.0.0/8', '10.0.0.0/255.0.0.0', '2001:db8::/32', '192.0.2.1', '::1'] },
    { trustProxy: [] },
    { headerTimeout: 1, maxHeaderSize: 256 },
    { headerTimeout: 2 ** 31 - 1, maxHeaderSize: 2 ** 16 },
    { retryDelay: undefined, name: undefined },
    { affinity: 'address' },
    { takeOver: '/run/app/balancer.sock' },
    { affinity: { query: 'sid' } },
    { affinity: { cookie: 'sticky' } },
    { affinity: { query: 'sid', cookie: 'sticky', fallback: 'address' }, behindProxy: true, proxyProtocol: true },
    {
      affinity: {
        cookie: { name: 's', path: '/a', domain: 'x.org', sameSite: 'none', secure: true, httpOnly: false, maxAge: 1 },
      },
    },
  ]) {
    createBalancer(none, options)
  }
  // Some of it has no effect, which is a warning.
  await new Promise(setImmediate)
})

test('an option that is undefined has its default', () => {
  const { secrets, seeded, ...defaults } = balancerOptions(undefined, undefined)
  const options = ['activeWorkers', 'seed', 'affinity', 'takeOver', ...Object.keys(defaults)]
  const given = Object.fromEntries(options.map((option) => [option, undefined]))
  for (const args of [[given], [undefined, given]]) {
    const { secrets, seeded, ...checked } = balancerOptions(...args)
    assert.deepEqual([seeded, checked], [false, defaults])
  }
  const affinity = { query: 'sid', cookie: { name: 'x' } }
  const cookie = { path: undefined, domain: undefined, sameSite: undefined, secure: undefined, httpOnly: undefined }
  assert.deepEqual(
    balancerOptions({
      affinity: { query: 'sid', fallback: undefined, cookie: { name: 'x', ...cookie, maxAge: undefined } },
    }).affinity,
    balancerOptions({ affinity }).affinity,
  )
  assert.deepEqual(listenOptions({ name: undefined }), listenOptions(undefined))
})

test('an unknown option is a warning that names it, and a known one that is near', async () => {
  for (const [option, message] of [
    ['retrydelay', /"retrydelay" is unknown .* Did you mean "retryDelay"\?/],
    ['maxRetrys', /Did you mean "maxRetries"\?/],
    ['sed', /Did you mean "seed"\?/],
    ['keepalive', /"keepalive" is unknown and has no effect\. See /],
    ['affinityy', /Did you mean "affinity"\?/],
    ['_events', /"_events" is unknown and has no effect\. See /],
  ]) {
    const warned = once(process, 'warning')
    createBalancer(none, { [option]: 7 })
    const [warning] = await warned
    assert.deepEqual([warning.name, warning.code], ['StickyListenWarning', 'STICKY_UNKNOWN_OPTION'])
    assert.match(warning.message, message)
  }
})

test('an unknown option within another is named with it', async () => {
  for (const [affinity, message] of [
    [{ query: 'sid', cokie: 'x' }, /"affinity\.cokie" is unknown .* Did you mean "cookie"\?/],
    [{ cookie: { name: 'x', samesite: 'lax' } }, /"affinity\.cookie\.samesite" is unknown .* "sameSite"\?/],
  ]) {
    const warned = once(process, 'warning')
    createBalancer(none, { affinity })
    assert.match((await warned)[0].message, message)
  }
})

test('an option that nothing reads without another is a warning that names both', async (t) => {
  const messages = []
  const note = ({ code, message }) => messages.push(`${code}: ${message.replace(/ See .*/, '')}`)
  process.on('warning', note)
  t.after(() => process.off('warning', note))
  const affinity = { query: 'sid' }
  const any = 'behindProxy or proxyProtocol or affinity'
  for (const [options, ...expected] of [
    [{ cipHeader: 'x-real-ip' }, ['cipHeader', 'behindProxy']],
    [{ cipHeader: 'x-real-ip', proxyProtocol: true, affinity }, ['cipHeader', 'behindProxy']],
    [{ cipHeader: 'x-real-ip', behindProxy: false }],
    [{ cipHeader: 'x-real-ip', behindProxy: true }],
    [{ trustProxy: 'loopback', affinity }, ['trustProxy', 'behindProxy or proxyProtocol']],
    [{ trustProxy: 1, proxyProtocol: true }, ['trustProxy', 'behindProxy']],
    [{ trustProxy: 'loopback', proxyProtocol: true }],
    [{ trustProxy: 1, behindProxy: true }],
    [{ headerTimeout: 100, maxHeaderSize: 1000 }, ['headerTimeout', any], ['maxHeaderSize', any]],
    [{ headerTimeout: 100, affinity: 'address' }, ['headerTimeout', any]],
    [{ headerTimeout: 100, maxHeaderSize: 1000, affinity }],
    [{ headerTimeout: 100, maxHeaderSize: 1000, proxyProtocol: true }],
    [{ cipHeader: undefined, trustProxy: undefined, headerTimeout: undefined, maxHeaderSize: undefined }],
  ]) {
    createBalancer(none, options)
    await new Promise(setImmediate)
    assert.deepEqual(
      messages.splice(0),
      expected.map(
        ([option, needed]) => `STICKY_UNUSED_OPTION: The option "${option}" has no effect without ${needed}.`,
      ),
    )
  }
})

test('a manager, or its workers, in the place of activeWorkers is an error that says what to pass', async (t) => {
  const { worker } = KINDS['a worker of node:cluster'](t, 'worker-server.js')
  for (const [first, remedy] of [
    [
      cluster,
      /Received an instance of EventEmitter\. For the workers of node:cluster leave it out: createBalancer\(options\)\. See /,
    ],
    [recluster('x.js'), /Pass the function of the manager: createBalancer\(cluster\.activeWorkers, options\)\. See /],
    [cluster.workers, /Pass a function that returns the workers/],
    [[worker], /Received an instance of Array\. Pass a function that returns the workers/],
    [[], /Received an instance of Array\. Pass a function that returns the workers/],
    [{ 1: worker.process }, /Pass a function that returns the workers/],
    [worker, /Pass a function that returns the workers/],
  ]) {
    for (const args of [[first], [first, { maxPending: 9 }]]) {
      const expected = { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: remedy }
      assert.throws(() => createBalancer(...args), expected)
    }
  }
})

test('listen() takes servers only, and only in a worker', () => {
  assert.throws(() => listen({}), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: /"server" argument/ })
  assert.throws(() => listen(net.createServer(), { name: 7 }), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /"options\.name"/,
  })
})

test('the errors look like those of Node', () => {
  try {
    createBalancer(none, { maxPending: 0 })
    assert.fail()
  } catch (error) {
    assert.match(error.stack, /^RangeError \[ERR_OUT_OF_RANGE\]: The value of "options.maxPending" is out of range/)
    assert.deepEqual(Object.keys(error), ['code'])
    assert.equal(error.name, 'RangeError')
  }
})

test('before listen() the counters are zero and the table is empty', () => {
  assert.deepEqual(createBalancer(none).stats(), {
    accepted: 0,
    delivered: 0,
    adopted: 0,
    redelivered: 0,
    refused: 0,
    rejected: 0,
    gone: 0,
    identifying: 0,
    waiting: 0,
    waits: { bounds: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], counts: Array(13).fill(0), sum: 0 },
    slots: [],
    steering: null,
    uptime: 0,
  })
  assert.equal(createBalancer(none).slotOf('192.0.2.1'), null)
})
