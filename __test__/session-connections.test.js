'use strict'

// A connection that is to end does so with its next response, which says so, whatever the application says of it.

const assert = require('node:assert/strict')
const http = require('node:http')
const { test } = require('node:test')
const { KeptConnections } = require('../lib/worker/kept-connections')
const { connect, readAll, request, until } = require('./support/client')
const { ask, head, listening } = require('./support/cookies')
const { served, sessions } = require('./support/sessions')

/** How applications say that a connection is kept, or what they copy from another response. */
const FORMS = {
  nothing: (response) => response.end('x'),
  'setHeader()': (response) => response.setHeader('Connection', 'keep-alive').end('x'),
  'setHeader() in capitals': (response) => response.setHeader('CONNECTION', 'Keep-Alive').end('x'),
  'setHeader() with a list': (response) => response.setHeader('connection', ['keep-alive', 'keep-alive']).end('x'),
  'setHeader() of both headers': (response) =>
    response.setHeader('Connection', 'keep-alive').setHeader('Keep-Alive', 'timeout=60').end('x'),
  'appendHeader()': (response) => response.appendHeader('connection', 'keep-alive').end('x'),
  'setHeaders()': (response) => response.setHeaders(new Headers({ connection: 'keep-alive' })).end('x'),
  'writeHead() with an object': (response) => response.writeHead(200, { connection: 'keep-alive' }).end('x'),
  'writeHead() with both headers': (response) =>
    response.writeHead(200, 'Fine', { connection: 'keep-alive', 'keep-alive': 'timeout=60' }).end('x'),
  'writeHead() with a flat array': (response) =>
    response.writeHead(200, ['Connection', 'keep-alive', 'Keep-Alive', 'timeout=60']).end('x'),
  'writeHead() with pairs': (response) => response.writeHead(200, [['connection', 'keep-alive']]).end('x'),
  'setHeader() and writeHead()': (response) =>
    response.setHeader('Connection', 'keep-alive').writeHead(200, { 'Keep-Alive': 'timeout=60' }).end('x'),
  'the alias writeHeader()': (response) => (response.writeHeader ?? response.writeHead).call(response, 200).end('x'),
  'the property shouldKeepAlive': (response) => Object.assign(response, { shouldKeepAlive: true }).end('x'),
  'a removed header': (response) => {
    response.removeHeader('Connection')
    response.end('x')
  },
  'a stream': (response) => {
    response.setHeader('Connection', 'keep-alive')
    response.write('x')
    setImmediate(() => response.end('y'))
  },
  'no content': (response) => response.writeHead(204, { connection: 'keep-alive' }).end(),
  'it ends already': (response) => response.setHeader('Connection', 'close').setHeader('Keep-Alive', 'max=1').end('x'),
}

/** A server whose connections are all to end. */
async function ending(t, serve) {
  const server = http.createServer((_request, response) => serve(response))
  // So that none ends by itself.
  server.keepAliveTimeout = 0
  const port = await listening(t, server)
  const kept = new KeptConnections(server, {})
  kept.leave()
  return port
}

for (const [name, serve] of Object.entries(FORMS)) {
  test(`it ends with the response and says so: ${name}`, { timeout: 60_000 }, async (t) => {
    const port = await ending(t, serve)
    for (const first of ['GET / HTTP/1.1', 'HEAD / HTTP/1.1', 'GET / HTTP/1.0']) {
      // Of a client that does not end it itself.
      const answer = await ask(port, head(first, ['Connection: keep-alive']))
      assert.match(answer, /^HTTP\/1\.1 20/, first)
      const said = answer.split('\r\n\r\n')[0].match(/^(?:connection|keep-alive):.*$/gim)
      assert.deepEqual(said, ['Connection: close'], first)
      if (first.startsWith('GET') && !answer.includes(' 204 ')) assert.match(answer, /\r\n\r\n[\s\S]*x/)
    }
  })
}

test('other options of the connection stay, and so does an upgrade', async (t) => {
  let answer = (response) => response.writeHead(426, { Upgrade: 'x', Connection: 'Upgrade, keep-alive' }).end()
  const port = await ending(t, (response) => answer(response))
  assert.match(await ask(port, head('GET / HTTP/1.1')), /^Connection: close, Upgrade\r$/m)
  answer = (response) => {
    response.writeHead(101, { Upgrade: 'x', Connection: 'Upgrade' }).flushHeaders()
    response.socket.end('of another protocol')
  }
  assert.match(await ask(port, head('GET / HTTP/1.1')), /^Connection: Upgrade\r\n[\s\S]*of another protocol$/m)
})

test('with affinity, a request without a session ends its connection, though the application keeps it', async (t) => {
  const { port } = await sessions(t, { workers: 2, options: { affinity: { query: 'sid' } } })
  const agent = new http.Agent({ keepAlive: true })
  t.after(() => agent.destroy())
  assert.equal((await request(port, { agent, path: '/keep' })).headers.connection, 'close')
  const socket = await connect(port)
  socket.write('GET /keep HTTP/1.1\r\nHost: x\r\n\r\n')
  assert.match(await readAll(socket), /^Connection: close\r$/m)
})

test('without affinity, a worker that was let go ends its connections, though the application keeps them', async (t) => {
  const { primary, port } = await sessions(t, { workers: 1 })
  const [pid] = await served(primary, 1)
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const kept = async () => {
    const { body, headers } = await request(port, { agent, path: '/keep' })
    return { pid: JSON.parse(body).pid, connection: headers.connection }
  }
  assert.deepEqual(await kept(), { pid, connection: 'keep-alive' })
  await primary.call('replace', 0)
  const last = await until(async () => {
    const answer = await kept()
    return answer.connection === 'close' && answer
  })
  assert.equal(last.pid, pid)
  assert.notEqual((await kept()).pid, pid)
})
