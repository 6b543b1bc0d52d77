'use strict'

// A cookie that is set with a response changes nothing else about it. Everything is done twice, without the
// cookie and with it: the bytes differ by one line, and what the application sees does not differ.

const assert = require('node:assert/strict')
const diagnostics = require('node:diagnostics_channel')
const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { Readable } = require('node:stream')
const { test } = require('node:test')
const express = require('express')
const fastify = require('fastify')
const { cookieLine, setCookie } = require('../lib/worker/set-cookie')
const { COOKIE, LINE, NAME, TIMEOUT, ask, head, listening, seen } = require('./support/cookies')

const FILE = path.join(__dirname, '..', 'package.json')

/** What is expected, of what comes without the cookie: the line at the end of each head that is not interim. */
const withLines = (text) =>
  text.replace(/HTTP\/1\.1 (?!100|102|103|110)\d{3} [\s\S]*?\r\n(?=\r\n)/g, (head) => head + LINE)

/** Requests, on one connection each. */
const REQUESTS = {
  'two of HTTP/1.1 at once': head('GET / HTTP/1.1') + head('GET / HTTP/1.1', ['Connection: close']),
  HEAD: head('HEAD / HTTP/1.1', ['Connection: close']),
  'HTTP/1.0': head('GET / HTTP/1.0'),
}

/** From now on the responses of a server set the cookie, as early as anybody can know of them. */
function settingCookies(t, server) {
  const onRequest = ({ server: of, response }) => {
    if (of === server) setCookie(response, NAME, COOKIE)
  }
  diagnostics.subscribe('http.server.request.start', onRequest)
  t.after(() => diagnostics.unsubscribe('http.server.request.start', onRequest))
}

/**
 * What a server answers to requests, without the cookie and with it.
 * @param {(request: http.IncomingMessage, response: http.ServerResponse, log: (...seen: any[]) => void) => void} serve
 */
async function compare(t, serve, { requests = REQUESTS, options = {}, expected = withLines, prepare } = {}) {
  const logs = { without: [], with: [] }
  const serving = async (log) => {
    const server = http.createServer(options, (request, response) => {
      const last = request.httpVersion === '1.0' || request.headers.connection === 'close'
      // Whatever the head says.
      if (last) response.on('finish', () => request.socket.end())
      log.push(['enumerable', Object.keys(response), response.writableHighWaterMark])
      serve(request, response, (...seen) => log.push(seen))
      log.push(['state', response.headersSent, response.statusCode, response.statusMessage, response.writableEnded])
      log.push(['headers', response.getHeaders(), response.getHeaderNames(), response.getHeader('set-cookie')])
    })
    prepare?.(server, (...seen) => log.push(seen))
    return { server, port: await listening(t, server) }
  }
  const plain = await serving(logs.without)
  const setting = await serving(logs.with)
  settingCookies(t, setting.server)
  for (const [name, bytes] of Object.entries(requests)) {
    const before = await ask(plain.port, bytes)
    assert.match(before, /^HTTP\/1\.1 \d{3} /, name)
    assert.equal(await ask(setting.port, bytes), expected(before), name)
    assert.deepEqual(logs.with, logs.without, name)
  }
}

// --- Heads ---------------------------------------------------------------------------------------

const PROTOTYPE = { 'x-inherited': 'b' }

/** The arguments of writeHead(). */
const HEADS = {
  'a status': () => [201],
  'a status as text': () => ['201'],
  'a status and a message': () => [201, 'Made'],
  'a status and an empty message': () => [201, ''],
  'an object': () => [200, { 'X-a': 'b', 'content-type': 'text/plain' }],
  'a message and an object': () => [200, 'Fine', { 'X-A': 'b' }],
  'no message and an object': () => [200, undefined, { 'X-A': 'b' }],
  'null and an object': () => [200, null, { 'X-A': 'b' }],
  undefined: () => [200, undefined],
  null: () => [200, null],
  'a message and undefined': () => [200, 'Fine', undefined],
  'a message and null': () => [200, 'Fine', null],
  'an empty object': () => [200, {}],
  'an object without prototype': () => [200, Object.assign(Object.create(null), { 'x-a': 'b' })],
  'an object that inherits': () => [200, Object.assign(Object.create(PROTOTYPE), { 'x-own': 'b' })],
  'an object with lists and numbers': () => [200, { 'x-a': ['b', 'c'], 'x-n': 7, 'x-empty': '', Cookie: ['d', 'e'] }],
  'an object with a cookie': () => [200, { 'Set-Cookie': 'a=1; Path=/' }],
  'an object with a cookie, in capitals': () => [200, { 'SET-COOKIE': 'a=1' }],
  'an object with a list of one cookie': () => [200, { 'set-cookie': ['a=1'] }],
  'an object with cookies': () => [200, { 'set-cookie': ['a=1', 'b=2; HttpOnly'], 'Set-cookie': 'c=3' }],
  'an empty array': () => [200, []],
  'a flat array': () => [200, ['X-A', 'b', 'content-type', 'text/plain']],
  'a message and a flat array': () => [200, 'Fine', ['X-A', 'b']],
  'a flat array with duplicates': () => [
    200,
    ['x-a', 'b', 'X-A', 'c', 'x-a', ['d', 'e'], 'x-set', 'again', 'X-Set', 'thrice'],
  ],
  'a flat array with cookies': () => [200, ['Set-Cookie', 'a=1', 'set-cookie', 'b=2', 'SET-COOKIE', ['c=3', 'd=4']]],
  'an odd array': () => [200, ['x-a', 'b', 'x-c']],
  'an array of pairs': () => [
    200,
    [
      ['X-A', 'b'],
      ['x-a', 'c'],
      ['x-set', 'again'],
    ],
  ],
  'an array of pairs with cookies': () => [
    200,
    [
      ['Set-Cookie', ['a=1', 'b=2']],
      ['set-cookie', 'c=3'],
    ],
  ],
  'an array of three pairs': () => [
    200,
    [
      ['x-a', 'b'],
      ['x-c', 'd'],
      ['x-e', 'f'],
    ],
  ],
  'a length': () => [200, { 'Content-Length': 4 }],
  'a length and a disposition': () => [
    200,
    ['Content-Length', 4, 'Content-Disposition', 'attachment; filename="\xe9"'],
  ],
  'a disposition and a length': () => [
    200,
    ['Content-Disposition', ['attachment; filename="\xe9"'], 'Content-Length', 4],
  ],
  'chunked encoding': () => [200, { 'Transfer-Encoding': 'chunked' }],
  'a connection to close': () => [200, ['Connection', 'close']],
  'a connection to keep': () => [200, { connection: 'keep-alive', 'Keep-Alive': 'timeout=7' }],
  'a date': () => [200, { date: 'today' }],
  'no content': () => [204],
  'no content, chunked': () => [204, { 'transfer-encoding': 'chunked' }],
  'reset content': () => [205],
  'not modified': () => [304, { ETag: '"a"' }],
  'switching protocols': () => [101, { Upgrade: 'test', Connection: 'upgrade' }],
  'a status of a hundred kinds': () => [799],
  'a status below all': () => [99],
  'a status above all': () => [1000],
  'a status that is none': () => ['fine'],
  'no status': () => [],
  'a message on two lines': () => [200, 'Fine\r\nX-A: b'],
  'a name that is none': () => [200, { 'x a': 'b' }],
  'a value on two lines': () => [200, { 'x-a': 'b\r\nx-c: d' }],
  'a value that is none': () => [200, { 'x-a': undefined }],
  'a flat array with a value that is none': () => [200, ['x-a', undefined]],
  'a flat array with a name that is none': () => [200, [7, 'b']],
  'an array of pairs with a name that is none': () => [200, [['', 'b']]],
  'a trailer without chunks': () => [200, { trailer: 'x-t', 'content-length': 4 }],
}

/** What came before. */
const BEFORE = {
  'at first': () => {},
  'after setHeader()': (response) => response.setHeader('X-Set', 'before').setHeader('x-two', ['a', 'b']),
  'after setting a cookie': (response) => response.setHeader('Set-Cookie', ['before=1', 'early=2']),
  'after appendHeader()': (response) => response.appendHeader('x-set', 'a').appendHeader('set-cookie', 'before=1'),
  'after setHeaders()': (response) =>
    response.setHeaders(
      new Headers([
        ['x-set', 'a'],
        ['set-cookie', 'b=1'],
        ['set-cookie', 'c=1'],
      ]),
    ),
  'after setHeaders() of a Map': (response) =>
    response.setHeaders(
      new Map([
        ['x-set', 'a'],
        ['set-cookie', ['b=1', 'c=1']],
      ]),
    ),
  'after a header was set and removed': (response) => response.setHeader('x-set', 'a').removeHeader('x-set'),
  'after statusMessage': (response) => Object.assign(response, { statusCode: 202, statusMessage: 'Well' }),
}

for (const [name, args] of Object.entries(HEADS)) {
  test(`writeHead() with ${name}, whatever came before`, TIMEOUT, async (t) => {
    for (const [when, before] of Object.entries(BEFORE)) {
      t.diagnostic(when)
      await compare(t, (_request, response, log) => {
        before(response)
        const passed = args()
        log(seen(() => response.writeHead(...passed)))
        log(passed, response.headersSent, response.statusCode, response.statusMessage)
        log(seen(() => response.setHeader('x-late', 'a')))
        log(seen(() => response.writeHead(200)))
        log(seen(() => response.end('body')))
        if (response.writableEnded) return
        // What failed keeps failing until it is taken back.
        Object.assign(response, { statusCode: 500, statusMessage: 'Failed' })
        for (const header of response.getHeaderNames()) response.removeHeader(header)
        log(seen(() => response.end()))
      })
    }
  })
}

/** How an application sets a cookie. */
const WAYS = {
  'setHeader()': (response, value) => response.setHeader('Set-Cookie', value).end(),
  'setHeader() with others': (response, value) => response.setHeader('set-cookie', ['a=1', value, 'b=2']).end(),
  'appendHeader()': (response, value) =>
    response.appendHeader('Set-Cookie', 'a=1').appendHeader('set-cookie', value).end(),
  'setHeaders()': (response, value) => response.setHeaders(new Headers([['Set-Cookie', value]])).end(),
  'writeHead() with an object': (response, value) => response.writeHead(200, { 'SET-COOKIE': value }).end(),
  'writeHead() with an object of lists': (response, value) =>
    response.writeHead(200, 'OK', { 'set-cookie': ['a=1', value] }).end(),
  'writeHead() with a flat array': (response, value) => response.writeHead(200, ['a', 'b', 'Set-Cookie', value]).end(),
  'writeHead() with pairs': (response, value) => response.writeHead(200, [['Set-Cookie', ['a=1', value]]]).end(),
  'setHeader() and writeHead()': (response, value) =>
    response.setHeader('a', 'b').writeHead(200, { 'Set-Cookie': value }).end(),
}

for (const [name, serve] of Object.entries(WAYS)) {
  test(`if the application sets the cookie by ${name}, ours is left out`, TIMEOUT, async (t) => {
    for (const value of ['sticky=own', 'sticky=', 'sticky=; Max-Age=0', ' sticky =own', 'sticky=a=b']) {
      await compare(t, (_request, response) => serve(response, value), { expected: (text) => text })
    }
  })

  test(`if the application sets another by ${name}, both are set`, TIMEOUT, async (t) => {
    const others = ['Sticky=own', 'sticky2=own', 'xsticky=own', 'sticky', 'a=sticky=b', 'a=b; sticky=c', 'a; sticky=c']
    for (const value of others) await compare(t, (_request, response) => serve(response, value))
  })
}

test('a header that is not Set-Cookie sets no cookie', TIMEOUT, (t) =>
  compare(t, (_request, response) => {
    response.setHeader('X-Set-Cookie', 'sticky=a').setHeader('set-cookie2', 'sticky=a')
    response.end('\r\nSet-Cookie: sticky=a\r\n')
  }),
)

// --- The course of a response --------------------------------------------------------------------

const COURSES = {
  'end()': (response) => response.end(),
  'end() with a text': (response) => response.end('body'),
  'end() with a buffer and a callback': (response, log) => response.end(Buffer.from('body'), () => log('ended')),
  'end() of text in another encoding': (response) => response.end('body \xe9', 'utf16le'),
  'write()': (response, log) => {
    log(response.write('one'))
    log(
      response.write('zwei', 'latin1'),
      response.write(Buffer.from('drei'), () => log('written')),
    )
    response.end()
  },
  'write() of much': (response, log) => {
    log(response.write('a'.repeat(1_000_000)), response.writableNeedDrain)
    response.end('b')
  },
  'write() in later turns': (response) => {
    response.write('one')
    setImmediate(() => {
      response.write('two')
      setImmediate(() => response.end('three'))
    })
  },
  'cork()': (response, log) => {
    response.cork()
    log(response.write('one'), response.write('two'))
    response.uncork()
    response.end()
  },
  'flushHeaders()': (response, log) => {
    response.flushHeaders()
    log(
      response.headersSent,
      seen(() => response.setHeader('a', 'b')),
    )
    response.end('body')
  },
  'flushHeaders() after writeHead()': (response) => {
    response.writeHead(200, ['a', 'b', 'a', 'c']).flushHeaders()
    response.end('body')
  },
  'a length, kept to': (response, log) => {
    response.strictContentLength = true
    response.setHeader('Content-Length', 6)
    log(
      response.write('one'),
      seen(() => response.write('four')),
    )
    response.end('two')
  },
  'a length, not kept to': (response, log) => {
    response.strictContentLength = true
    response.setHeader('Content-Length', 6)
    log(seen(() => response.end('seven..')))
    response.strictContentLength = false
    response.end('seven..')
  },
  'no date': (response) => {
    response.sendDate = false
    response.end('body')
  },
  'a removed date, length and encoding': (response) => {
    for (const name of ['date', 'content-length', 'transfer-encoding']) response.removeHeader(name)
    response.end('body')
  },
  'a removed connection': (response) => {
    response.removeHeader('connection')
    response.end('body')
  },
  'a connection that is not kept': (response) => {
    response.shouldKeepAlive = false
    response.end('body')
  },
  trailers: (response, log) => {
    log(seen(() => response.setHeader('Trailer', 'x-sum').write('body')))
    // Without chunks there are none.
    if (!response.headersSent) response.removeHeader('Trailer')
    response.addTrailers({ 'x-sum': '7', 'Set-Cookie': 'sticky=late' })
    response.end()
  },
  'trailers without their header': (response) => {
    response.write('body')
    response.addTrailers([['x-sum', ['7', '8']]])
    response.end()
  },
  'a body with a 304': (response, log) => {
    response.statusCode = 304
    log(seen(() => response.write('body')))
    response.end('body')
  },
  'headers that are not ASCII': (response) => response.setHeader('x-a', '\xe9').end('\u2603'),
  'a file': (response, log) => {
    response.setHeader('Content-Type', 'text/javascript')
    fs.createReadStream(FILE, { highWaterMark: 1000 }).pipe(response)
    response.on('finish', () => log('finished', response.writableFinished, response.headersSent))
  },
  'a stream that fails': (response) => {
    const stream = new Readable({ read() {} })
    response.flushHeaders()
    stream.pipe(response)
    stream.push('some')
    stream.on('error', () => response.destroy())
    setImmediate(() => stream.destroy(new Error('stop')))
  },
  'writeProcessing() and writeContinue()': (response, log) => {
    response.writeProcessing(() => log('processing'))
    response.writeContinue()
    log(response.headersSent)
    response.end('body')
  },
  'writeEarlyHints()': (response, log) => {
    response.writeEarlyHints({ link: '</a.css>; rel=preload; as=style', 'Set-Cookie': 'sticky=early' })
    log(response.headersSent)
    response.end('body')
  },
  'writeInformation(), where there is one': (response) => {
    response.writeInformation?.(110, { 'x-a': 'b' })
    response.end('body')
  },
  'all its errors': (response, log) => {
    log(seen(() => response.writeHead(7)))
    log(seen(() => response.writeHead(200, { '': 'a' })))
    log(seen(() => response.writeHead(200, { trailer: 'a', 'content-length': 7 })))
    log(response.headersSent, response.statusCode)
    log(seen(() => response.writeHead(201, { 'x-a': 'b' })))
    log(seen(() => response.writeHead(202)))
    response.end('body')
    log(
      seen(() => response.writeHead(203)),
      seen(() => response.end()),
    )
  },
  'writeHead() called on nothing': (response, log) => {
    const { writeHead } = response
    log(seen(() => writeHead(200)).name)
    log(seen(() => Reflect.apply(writeHead, response, [201])))
    response.end('body')
  },
}

for (const [name, serve] of Object.entries(COURSES)) {
  test(`a response by ${name}`, TIMEOUT, (t) =>
    compare(t, (_request, response, log) => {
      response.on('error', (error) => log('error', error.code))
      serve(response, log)
    }),
  )
}

test('responses of one connection are answered in order, each with its cookie', TIMEOUT, (t) => {
  const waiting = []
  return compare(
    t,
    ({ url }, response, log) => {
      waiting.push(() => response.setHeader('x-url', url).end(url))
      if (waiting.length === 3) for (const answer of waiting.splice(0).reverse()) answer()
      log(url)
    },
    {
      requests: {
        three: ['/a', '/b', '/c']
          .map((url) => head(`GET ${url} HTTP/1.1`, url === '/c' ? ['Connection: close'] : []))
          .join(''),
      },
    },
  )
})

test('a response that is sent before its head is left as it is', TIMEOUT, (t) =>
  compare(t, (_request, response) => response.writeHead(200, { Expect: 'nothing' }).end('body'), {
    expected: (text) => text,
  }),
)

test('what Node answers by itself has the cookie as well', TIMEOUT, (t) =>
  compare(t, (_request, response) => response.end('body'), {
    options: { maxRequestsPerSocket: 1 },
    prepare: (server) => {
      server.maxRequestsPerSocket = 1
    },
    requests: {
      'no host': 'GET / HTTP/1.1\r\n\r\n',
      'too many': head('GET / HTTP/1.1') + head('GET / HTTP/1.1', ['Connection: close']),
      expectation: head('GET / HTTP/1.1', ['Expect: nothing', 'Connection: close']),
    },
  }),
)

const EXPECTING = head('POST / HTTP/1.1', ['Expect: 100-continue', 'Content-Length: 4', 'Connection: close'])

test("a request that expects '100 Continue' gets that without a cookie", TIMEOUT, (t) =>
  compare(t, (request, response) => request.pipe(response), { requests: { expecting: `${EXPECTING}body` } }),
)

test("so does one in 'checkContinue', or it is refused", TIMEOUT, (t) =>
  compare(t, () => {}, {
    prepare: (server, log) => {
      server.on('checkContinue', (request, response) => {
        if (request.headers['x-refuse']) return response.writeHead(413).end()
        response.writeContinue()
        log(response.headersSent)
        request.pipe(response)
      })
    },
    requests: {
      expecting: `${EXPECTING}body`,
      refused: EXPECTING.replace('Host', 'X-Refuse: 1\r\nHost'),
    },
  }),
)

test('headers that the server has once only are', TIMEOUT, (t) =>
  compare(
    t,
    (_request, response) => response.setHeader('Set-Cookie', ['a=1', 'b=2']).setHeader('x-a', ['c', 'd']).end(),
    {
      options: { uniqueHeaders: ['set-cookie', 'x-a'] },
    },
  ),
)

// --- Beside others -------------------------------------------------------------------------------

/** As the package on-headers does it, which compression and express-session use. */
function onHeaders(response, listener) {
  const { writeHead } = response
  let fired = false
  response.writeHead = function (...args) {
    if (!fired) {
      fired = true
      listener.call(this)
    }
    return writeHead.apply(this, args)
  }
}

/** As compression does it: the head comes before the body, and without its length. */
function compressing(response) {
  const { end } = response
  response.end = (...args) => {
    if (!response.headersSent) response._implicitHeader()
    return Reflect.apply(end, response, args)
  }
  onHeaders(response, () => {
    response.setHeader('Content-Encoding', 'identity')
    response.removeHeader('Content-Length')
  })
}

test('functions that libraries put before writeHead() are called', TIMEOUT, (t) =>
  compare(t, (_request, response, log) => {
    compressing(response)
    onHeaders(response, () => log(response.getHeader('set-cookie'), response.headersSent))
    onHeaders(response, () => response.appendHeader('Set-Cookie', 'session=1'))
    response.setHeader('Content-Length', 4)
    response.end('body')
  }),
)

test('a cookie of ours that a library sets at the last moment is its own', TIMEOUT, (t) =>
  compare(
    t,
    (_request, response) => {
      onHeaders(response, () => response.appendHeader('Set-Cookie', 'sticky=library'))
      response.end('body')
    },
    { expected: (text) => text },
  ),
)

class Response extends http.ServerResponse {
  constructor(...args) {
    super(...args)
    onHeaders(this, () => this.setHeader('X-Library', 'early'))
  }

  writeHead(status, ...args) {
    this.setHeader('X-Class', status)
    super.writeHead(status, ...args)
    return 'mine'
  }
}

test('so are those that were there already, and they return what they return', TIMEOUT, (t) =>
  compare(
    t,
    (_request, response, log) => {
      log(response.writeHead(200, { 'Set-Cookie': 'a=1' }))
      response.end('body')
    },
    { options: { ServerResponse: Response } },
  ),
)

test('nothing that can be listed is on the response', () => {
  const response = new http.ServerResponse({ method: 'GET' })
  const keys = Object.keys(response)
  setCookie(response, NAME, COOKIE)
  assert.deepEqual(Object.keys(response), keys)
})

// --- Frameworks ----------------------------------------------------------------------------------

/** Of GET, and of HEAD. */
const PATHS = ['/text', '/json', '/empty', '/redirect', '/cookie', '/late', '/stream', '/raw', '/hints', '/wrapped']
const FAILING = ['/error', '/missing', '/invalid']

/**
 * @param {() => Promise<http.Server>} make a server of the framework
 * @param {Record<string, string[]>} more requests, by their path, and their headers
 */
async function compareFramework(t, make, more) {
  const servers = [await make(), await make()]
  settingCookies(t, servers[1])
  const requests = [...[...PATHS, ...FAILING, '/own'].map((at) => [at, []]), ...Object.entries(more)]
  for (const [at, lines] of requests) {
    for (const method of ['GET', 'HEAD', 'OPTIONS']) {
      const bytes = head(`${method} ${at} HTTP/1.1`, [...lines, 'Connection: close'])
      const [before, after] = await Promise.all(servers.map((server) => ask(server.address().port, bytes)))
      assert.match(before, /^HTTP\/1\.1 \d{3} /, at)
      const own = at === '/own' && method !== 'OPTIONS'
      assert.equal(before.includes('sticky=own'), own)
      assert.equal(after, own ? before : withLines(before), `${method} ${at}`)
    }
  }
}

test('Express answers as it does, and the cookie is set', TIMEOUT, (t) => {
  const make = async () => {
    const app = express()
    app.set('env', 'test')
    app.use('/wrapped', (_request, response, next) => {
      onHeaders(response, () => response.append('Set-Cookie', 'session=1'))
      compressing(response)
      next()
    })
    app.get('/text', (_request, response) => response.send('text'))
    app.get('/json', (_request, response) => response.status(201).json({ a: 1 }))
    app.get('/empty', (_request, response) => response.sendStatus(204))
    app.get('/redirect', (_request, response) => response.redirect('/text'))
    app.get('/cookie', (_request, response) => response.cookie('a', '1', { path: '/a' }).clearCookie('b').send('text'))
    app.get('/own', (_request, response) => response.cookie('a', '1').cookie('sticky', 'own').send('text'))
    app.get('/late', (_request, response) => setImmediate(() => response.set('Set-Cookie', 'late=1').send('text')))
    app.get('/stream', (_request, response) => Readable.from(['a', 'b']).pipe(response.type('text')))
    app.get('/file', (_request, response) => response.sendFile(FILE))
    app.get('/raw', (_request, response) => response.writeHead(200, ['x-a', 'b', 'X-A', 'c']).end('text'))
    app.get('/wrapped', (_request, response) => response.send('text'))
    app.get('/invalid', (_request, response) => response.set('x-a', 'b\r\nc').send('text'))
    app.get('/hints', (_request, response) => {
      response.writeEarlyHints({ link: '</a.css>; rel=preload; as=style' })
      response.send('text')
    })
    app.get('/error', () => {
      throw Object.assign(new Error('of the application'), { stack: 'Error: of the application' })
    })
    const server = http.createServer(app)
    await listening(t, server)
    return server
  }
  return compareFramework(t, make, {
    '/file': [],
    '/file?range': ['Range: bytes=1-9'],
    '/file?fresh': ['If-Modified-Since: Fri, 31 Dec 2100 00:00:00 GMT'],
    '/text?fresh': ['If-None-Match: *'],
  })
})

test("what an application puts before writeHead() of Express's responses is called", TIMEOUT, async (t) => {
  const make = async () => {
    const app = express()
    app.set('env', 'test')
    const { writeHead } = http.ServerResponse.prototype
    app.response.writeHead = function (...args) {
      this.setHeader('X-Application', 'a').appendHeader('Set-Cookie', 'session=1')
      return Reflect.apply(writeHead, this, args)
    }
    app.get('/text', (_request, response) => response.send('text'))
    app.get('/own', (_request, response) => response.cookie('sticky', 'own').send('text'))
    const server = http.createServer(app)
    await listening(t, server)
    return server
  }
  await compareFramework(t, make, {})
})

test('Fastify answers as it does, and the cookie is set', TIMEOUT, (t) => {
  const make = async () => {
    const app = fastify()
    app.addHook('onRequest', async ({ url }, { raw }) => {
      if (url !== '/wrapped') return
      onHeaders(raw, () => raw.appendHeader('Set-Cookie', 'session=1'))
      compressing(raw)
    })
    app.get('/text', async () => 'text')
    app.get('/json', async (_request, reply) => reply.code(201).send({ a: 1 }))
    app.get('/empty', async (_request, reply) => reply.code(204).send())
    app.get('/redirect', async (_request, reply) => reply.redirect('/text'))
    app.get('/cookie', async (_request, reply) =>
      reply.header('set-cookie', 'a=1').header('Set-Cookie', 'b=2').send('text'),
    )
    app.get('/own', async (_request, reply) => reply.header('set-cookie', ['a=1', 'sticky=own']).send('text'))
    app.get('/late', (_request, reply) => {
      setImmediate(() => reply.header('Set-Cookie', 'late=1').send('text'))
    })
    app.get('/stream', async (_request, reply) => reply.type('text/plain').send(Readable.from(['a', 'b'])))
    app.get('/raw', (_request, reply) => {
      reply.hijack().raw.writeHead(200, ['x-a', 'b', 'X-A', 'c']).end('text')
    })
    app.get('/wrapped', async () => 'text')
    app.get('/invalid', async (_request, reply) => reply.header('x-a', 'b\r\nc').send('text'))
    app.get('/trailers', async (_request, reply) => reply.trailer('x-sum', async () => '7').send('text'))
    app.get('/hints', async (_request, reply) => {
      reply.raw.writeEarlyHints({ link: '</a.css>; rel=preload; as=style' })
      return 'text'
    })
    app.get('/error', async () => {
      throw new Error('of the application')
    })
    t.after(() => app.close())
    await app.listen({ port: 0, host: '127.0.0.1' })
    return app.server
  }
  return compareFramework(t, make, { '/trailers': [] })
})

// --- The line ------------------------------------------------------------------------------------

test('the line has the attributes that are given', () => {
  const least = { path: '/', sameSite: 'lax', httpOnly: false }
  assert.equal(cookieLine('sticky', 'abc', { ...least, httpOnly: true }, false), COOKIE)
  assert.equal(cookieLine('a', 'b', least, false), 'a=b; Path=/; SameSite=Lax')
  assert.equal(cookieLine('a', 'b', { ...least, maxAge: 0 }, false), 'a=b; Path=/; Max-Age=0; SameSite=Lax')
  assert.equal(
    cookieLine('a', 'b', { path: '/c', domain: 'd.example', sameSite: 'none', httpOnly: true, maxAge: 60 }, true),
    'a=b; Path=/c; Domain=d.example; Max-Age=60; HttpOnly; Secure; SameSite=None',
  )
  assert.match(cookieLine('a', 'b', { ...least, sameSite: 'strict' }, true), /; Secure; SameSite=Strict$/)
})
