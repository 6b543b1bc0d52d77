'use strict'

// A cookie that is set with the response to an upgrade, which the application writes to the socket, changes
// nothing else of what is written. Everything is done twice, without the cookie and with it.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const https = require('node:https')
const { Duplex, PassThrough, Readable, pipeline } = require('node:stream')
const { test } = require('node:test')
const engine = require('engine.io')
const { WebSocket, WebSocketServer } = require('ws')
const { setCookieOnUpgrade } = require('../lib/worker/upgrade-cookie')
const { selfSigned } = require('./support/certificates')
const { COOKIE, LINE, NAME, TIMEOUT, ask, head, listening, seen } = require('./support/cookies')
const { directory } = require('./support/places')

const FIRST = 'HTTP/1.1 101 Switching Protocols\r\n'
const REST = 'Upgrade: test\r\nConnection: Upgrade\r\n\r\n'
const HEAD = FIRST + REST
const REFUSAL = 'HTTP/1.1 400 Bad Request\r\nContent-Length: 28\r\n\r\n\r\nSet-Cookie: sticky=a; a=b\r\n'
const REQUEST = head('GET / HTTP/1.1', ['Connection: Upgrade', 'Upgrade: test'])
// Of the protocol that follows.
const FRAME = Buffer.from([0x81, 0x00, 0xff, 0x0a, 0xc3, 0xa9])

/** What is expected of what comes without the cookie: the line after the first one. */
const withLine = (text) => text.replace(/^HTTP\/1\.\d \d{3}[^\n]*\n/, (first) => first + LINE)
const unchanged = (text) => text

/** From now on the upgrades of a server set the cookie, before its listeners know of them. */
function settingCookies(server, socketOf = (_request, socket) => socket) {
  server.prependListener('upgrade', (request, socket) => {
    setCookieOnUpgrade(socketOf(request, socket), NAME, COOKIE)
  })
}

/** A server with or without the cookie, and what it logs. */
async function serving(t, serve, setting, socketOf) {
  const log = []
  /** @type {Promise<any>[]} */
  const closed = []
  const server = http.createServer()
  server.on('upgrade', (request, socket) => {
    closed.push(new Promise((resolve) => socket.once('close', resolve)))
    socket.on('error', ({ code }) => log.push(['error', code]))
    log.push(['enumerable', Object.keys(socket).includes('write'), Object.keys(socket).includes('end')])
    serve(socket, (...what) => log.push(what), request)
  })
  if (setting) settingCookies(server, socketOf)
  return { log, closed, port: await listening(t, server) }
}

/**
 * What a server answers to an upgrade, without the cookie and with it.
 * @param {(socket: any, log: (...seen: any[]) => void, request: http.IncomingMessage) => void} serve
 */
async function compare(t, serve, { expected = withLine, bytes = REQUEST, socketOf } = {}) {
  const plain = await serving(t, serve, false)
  const setting = await serving(t, serve, true, socketOf)
  const before = await ask(plain.port, bytes)
  const after = await ask(setting.port, bytes)
  assert.equal(after, expected(before))
  await Promise.all([...plain.closed, ...setting.closed])
  assert.deepEqual(setting.log, plain.log)
  return after
}

/** What is on the socket itself. */
const own = (socket) => ['write', 'end'].map((name) => Object.hasOwn(socket, name))

const RESPONSES = {
  'write() of a text': (socket, log) => {
    log(socket.write(HEAD), own(socket))
    socket.end(FRAME)
  },
  'write() of a text in an encoding, with a callback': (socket, log) => {
    log(socket.write(`${FIRST}X-A: \xe9\r\n${REST}`, 'latin1', (error) => log('written', error ?? null)))
    socket.end(FRAME)
  },
  'write() of a text with a callback': (socket, log) => {
    log(socket.write(`${FIRST}X-A: \xe9\r\n${REST}`, (error) => log('written', error ?? null)))
    socket.end()
  },
  'write() of a text in base64': (socket) =>
    socket.write(Buffer.from(HEAD).toString('base64'), 'base64') && socket.end(),
  'write() of a text in hexadecimal': (socket) =>
    socket.write(Buffer.from(HEAD).toString('hex'), 'HEX') && socket.end(),
  'write() of a text in the encoding of the socket': (socket) => {
    socket.setDefaultEncoding('latin1')
    socket.write(`${FIRST}X-A: \xe9\r\n${REST}`)
    socket.end()
  },
  'write() of a buffer': (socket, log) => {
    const buffer = Buffer.concat([Buffer.from(HEAD), FRAME])
    log(socket.write(buffer), own(socket), buffer.toString('hex'))
    socket.end(FRAME)
  },
  'write() of a buffer with an encoding and a callback': (socket, log) => {
    log(socket.write(Buffer.from(HEAD), 'hex', (error) => log('written', error ?? null)))
    socket.end()
  },
  'write() of a part of an array': (socket) => {
    const array = new Uint8Array(Buffer.from(`garbage${HEAD}garbage`)).subarray(7, 7 + HEAD.length)
    socket.write(array)
    socket.end()
  },
  'end() of a text': (socket, log) =>
    log(
      seen(() => socket.end(HEAD)),
      own(socket),
    ),
  'end() of a text with a callback': (socket, log) => log(seen(() => socket.end(HEAD, () => log('ended')))),
  'end() of a text in an encoding, with a callback': (socket, log) =>
    log(seen(() => socket.end(Buffer.from(HEAD).toString('hex'), 'hex', () => log('ended')))),
  'end() of a buffer': (socket, log) => log(seen(() => socket.end(Buffer.from(HEAD)))),
  'a head and a frame in one': (socket) => socket.end(Buffer.concat([Buffer.from(HEAD), FRAME])),
  'a refusal': (socket) => socket.end(REFUSAL),
  'a refusal that is written, and then ended': (socket) => {
    socket.write(REFUSAL)
    socket.end()
  },
  'a response of HTTP/1.0': (socket) => socket.end('HTTP/1.0 503 \r\n\r\n'),
  'a response without a reason': (socket) => socket.end('HTTP/1.1 400\r\n\r\n'),
  'a response without anything else, and lines that end with one character': (socket) =>
    socket.end('HTTP/1.1 400 No\n\n'),
  'the first line, and then the others': (socket, log) => {
    log(socket.write(FIRST), own(socket))
    socket.write(REST)
    socket.end(FRAME)
  },
  'a part of the first line, and then the rest': (socket) => {
    socket.write(HEAD.slice(0, 10))
    socket.end(HEAD.slice(10))
  },
  'a first line without its end, and then the rest': (socket) => {
    socket.write(FIRST.slice(0, -1))
    socket.write(`\n${REST}`, 'latin1')
    socket.end()
  },
  'one byte at a time, in different turns': (socket, log) => {
    const bytes = [...Buffer.from(HEAD)]
    const next = () => {
      socket.write(Buffer.from([bytes.shift()]))
      if (bytes.length) return setImmediate(next)
      log(own(socket))
      socket.end()
    }
    next()
  },
  'nothing first': (socket) => {
    socket.write('')
    socket.write(Buffer.alloc(0))
    socket.write(HEAD)
    socket.end('')
  },
  'writes to a corked socket': (socket, log) => {
    socket.cork()
    log(socket.write(FIRST), socket.write(REST), socket.writableCorked)
    socket.uncork()
    socket.end(FRAME)
  },
  'a head later': (socket) => setImmediate(() => socket.end(HEAD)),
  much: (socket, log) => {
    log(socket.write(HEAD + 'a'.repeat(1_000_000)), socket.writableNeedDrain)
    socket.end()
  },
  'a stream': (socket) => Readable.from([FIRST, REST]).pipe(socket),
  'a stream of buffers by pipeline()': (socket, log) =>
    pipeline(Readable.from([Buffer.from(HEAD), FRAME]), new PassThrough(), socket, (error) => log(error ?? null)),
  'a web stream': (socket) => {
    const writer = Duplex.toWeb(socket).writable.getWriter()
    writer.write(Buffer.from(HEAD))
    writer.close()
  },
  'a response of Node': (socket, log, request) => {
    const response = new http.ServerResponse(request)
    response.shouldKeepAlive = false
    response.assignSocket(socket)
    response.on('finish', () => {
      log('finished', own(socket))
      response.detachSocket(socket)
      socket.end()
    })
    response.writeHead(200, ['x-a', 'b']).end('body')
  },
  'errors, before the head': (socket, log) => {
    for (const wrong of [null, {}, 7]) log(seen(() => socket.write(wrong)))
    log(
      seen(() => socket.write('text', 'nothing')),
      seen(() => socket.end({})),
    )
    socket.destroy()
  },
  'errors, after the head': (socket, log) => {
    socket.write(HEAD)
    log(
      seen(() => socket.write(null)),
      seen(() => socket.write('text', 'nothing')),
    )
    socket.end()
    log(socket.write('late', () => log('called')))
  },
}

for (const [name, serve] of Object.entries(RESPONSES)) {
  const none = name === 'errors, before the head'
  test(`an upgrade is answered with ${name}`, TIMEOUT, async (t) => {
    const after = await compare(t, serve)
    assert.equal(after.split(LINE).length, none ? 1 : 2)
  })
}

const OTHERS = {
  'another protocol': (socket, log) => {
    log(socket.write('hello'), own(socket))
    socket.end(HEAD)
  },
  bytes: (socket, log) => {
    log(socket.write(FRAME), own(socket))
    socket.end(HEAD)
  },
  'HTTP/2': (socket) => socket.end('HTTP/2.0 200 OK\r\n\r\n'),
  'a request': (socket) => socket.end('GET / HTTP/1.1\r\n\r\n'),
  'a status that is none': (socket) => socket.end('HTTP/1.1 1x1 Switching\r\n\r\n'),
  'what begins like a response': (socket, log) => {
    socket.write('HTTP/1.')
    log(socket.write('x'), own(socket))
    socket.end('\r\n')
  },
  'a part of a first line': (socket) => socket.end('HTTP/1.1 101'),
  'an empty line first': (socket) => socket.end(`\r\n${HEAD}`),
  'a text of two bytes a character': (socket) => socket.end(HEAD, 'utf16le'),
  'nothing, and ends': (socket) => socket.end(),
  'nothing, and ends with a callback': (socket, log) => socket.end(() => log('ended')),
  'nothing, and is destroyed': (socket) => socket.destroy(),
}

for (const [name, serve] of Object.entries(OTHERS)) {
  test(`nothing is added to ${name}`, TIMEOUT, (t) => compare(t, serve, { expected: unchanged }))
}

for (const line of ['Set-Cookie: sticky=own', 'set-cookie:sticky=', 'SET-COOKIE:  sticky = a; Path=/']) {
  test(`ours is left out of a head with '${line}'`, TIMEOUT, async (t) => {
    for (const text of [`${FIRST}${line}\r\n${REST}`, `${HEAD.slice(0, -2)}${line}\r\n\r\n`, `${FIRST}${line}\r\n`]) {
      const serve = (socket, log) => {
        log(socket.write(text), own(socket))
        socket.end(FRAME)
      }
      await compare(t, serve, { expected: unchanged })
    }
  })
}

test('other cookies of a head are set as well, and what follows the head sets none', TIMEOUT, async (t) => {
  const lines = 'Set-Cookie: Sticky=a\r\nSet-Cookie: sticky2=b\r\nX-Set-Cookie: sticky=c\r\n'
  await compare(t, (socket) => socket.end(`${FIRST}${lines}${REST}Set-Cookie: sticky=d\r\n`))
})

test('a cookie of that name that is written later comes after ours', TIMEOUT, (t) =>
  compare(t, (socket) => {
    socket.write(FIRST)
    socket.end(`Set-Cookie: sticky=own\r\n${REST}`)
  }),
)

test('a socket keeps the functions that it had, and those that it is given', TIMEOUT, async (t) => {
  const counting = (socket, log, name) => {
    const before = socket[name]
    socket[name] = function (...args) {
      log(name, args.length)
      return before.apply(this, args)
    }
    return socket[name]
  }
  await compare(t, (socket, log) => {
    const write = counting(socket, log, 'write')
    socket.write(HEAD)
    log(socket.write === write)
    log(socket.write(FRAME, 'latin1'), socket.write(HEAD))
    socket.end(HEAD)
  })
  for (const name of ['write', 'end']) {
    const socket = new PassThrough({ encoding: 'latin1' })
    const calls = []
    const before = counting(socket, (...call) => calls.push(call), name)
    setCookieOnUpgrade(socket, NAME, COOKIE)
    socket[name](HEAD)
    assert.equal(socket[name], before)
    assert.equal(socket.read(), withLine(HEAD))
    assert.deepEqual(calls, [[name, 1]])
  }
})

test('two cookies can be set', TIMEOUT, () => {
  const socket = new PassThrough({ encoding: 'latin1' })
  setCookieOnUpgrade(socket, NAME, COOKIE)
  setCookieOnUpgrade(socket, 'other', 'other=1')
  socket.write(HEAD)
  assert.deepEqual(own(socket), [false, false])
  assert.equal(socket.read(), `${FIRST}${LINE}Set-Cookie: other=1\r\n${REST}`)
})

// Since Node 26, an upgrade whose request has a body comes with a stream of its own in the place of its socket.
for (const [name, socketOf] of Object.entries({
  'what it comes with': undefined,
  'its socket': ({ socket }) => socket,
})) {
  test(`an upgrade with a body has the cookie by ${name}`, TIMEOUT, (t) => {
    const bytes = head('POST / HTTP/1.1', ['Connection: Upgrade', 'Upgrade: test', 'Content-Length: 4'])
    const serve = (socket, log, request) => {
      log(socket.write(HEAD), own(socket), own(request.socket))
      socket.end(FRAME)
    }
    return compare(t, serve, { bytes, socketOf })
  })
}

// --- Libraries -----------------------------------------------------------------------------------

/** The headers of the response to a WebSocket's handshake, and what it is told first. */
async function open(url, ask) {
  const client = new WebSocket(url, { rejectUnauthorized: false })
  const upgraded = once(client, 'upgrade')
  const told = once(client, 'message')
  const opened = once(client, 'open')
  const [{ headers, statusCode }] = await upgraded
  assert.equal(statusCode, 101)
  await opened
  if (ask) client.send(ask)
  const [message] = await told
  client.close()
  await once(client, 'close')
  return { headers, message: String(message) }
}

/** The status and the headers with which a handshake is refused. */
async function refused(url) {
  const client = new WebSocket(url)
  const [, { statusCode, headers }] = await once(client, 'unexpected-response')
  client.on('error', () => {})
  client.terminate()
  return { statusCode, headers }
}

async function compareLibrary(t, prepare, work, create = http.createServer) {
  const results = []
  for (const setting of [false, true]) {
    const server = create()
    prepare(server)
    if (setting) settingCookies(server)
    results.push(await work(await listening(t, server)))
  }
  const [{ headers: plain, ...before }, { headers, ...after }] = results
  assert.deepEqual(after, before)
  for (const fields of [plain, headers]) for (const name of ['sec-websocket-accept', 'date']) delete fields[name]
  return [plain, headers]
}

const echo = (socket) => socket.on('message', (message) => socket.send(`${message}!`))

for (const perMessageDeflate of [false, true]) {
  const compressing = perMessageDeflate ? ', compressing' : ''
  test(`the WebSocketServer of ws answers as it does${compressing}`, TIMEOUT, async (t) => {
    const prepare = (server) => new WebSocketServer({ server, perMessageDeflate }).on('connection', echo)
    const text = 'hello'.repeat(1000)
    const work = async (port) => {
      const { headers, message } = await open(`ws://127.0.0.1:${port}`, text)
      return { headers, right: message === `${text}!` }
    }
    const [plain, headers] = await compareLibrary(t, prepare, work)
    assert.deepEqual(headers, { ...plain, 'set-cookie': [COOKIE] })
  })
}

test('so it does over TLS', TIMEOUT, async (t) => {
  const certificate = selfSigned(directory(t))
  const prepare = (server) => new WebSocketServer({ server }).on('connection', echo)
  const work = (port) => open(`wss://127.0.0.1:${port}`, 'hello')
  const [plain, headers] = await compareLibrary(t, prepare, work, () => https.createServer(certificate))
  assert.deepEqual(headers, { ...plain, 'set-cookie': [COOKIE] })
})

test('its cookies are kept, and one of that name as well', TIMEOUT, async (t) => {
  for (const [line, cookies] of [
    ['Set-Cookie: a=1', [COOKIE, 'a=1']],
    ['set-cookie: sticky=own', ['sticky=own']],
  ]) {
    const prepare = (server) =>
      new WebSocketServer({ server }).on('connection', echo).on('headers', (lines) => lines.push(line))
    const [plain, headers] = await compareLibrary(t, prepare, (port) => open(`ws://127.0.0.1:${port}`, 'hello'))
    assert.deepEqual(headers, { ...plain, 'set-cookie': cookies })
  }
})

test('its refusals have the cookie', TIMEOUT, async (t) => {
  const prepare = (server) => new WebSocketServer({ server, verifyClient: () => false })
  const [plain, headers] = await compareLibrary(t, prepare, (port) => refused(`ws://127.0.0.1:${port}`))
  assert.deepEqual(headers, { ...plain, 'set-cookie': [COOKIE] })
})

test('Engine.IO answers as it does, and its cookie is kept', TIMEOUT, async (t) => {
  const prepare = (server) => {
    const attached = engine.attach(server, { destroyUpgrade: false })
    t.after(() => attached.close())
    attached.on('initial_headers', (headers) => {
      headers['set-cookie'] = 'session=1'
    })
  }
  const at = (port, query) => `ws://127.0.0.1:${port}/engine.io/?EIO=4&${query}`
  const opened = async (port) => {
    const { headers, message } = await open(at(port, 'transport=websocket'))
    return { headers, opened: message.startsWith('0{"sid":') }
  }
  const [plain, headers] = await compareLibrary(t, prepare, opened)
  assert.deepEqual(plain['set-cookie'], ['session=1'])
  assert.deepEqual(headers, { ...plain, 'set-cookie': [COOKIE, ...plain['set-cookie']] })
  const [refusal, ours] = await compareLibrary(t, prepare, (port) => refused(at(port, 'transport=none')))
  assert.deepEqual(ours, { ...refusal, 'set-cookie': [COOKIE] })
})
