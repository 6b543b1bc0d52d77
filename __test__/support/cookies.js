'use strict'

// A cookie of ours, and servers that are asked byte by byte.

const { once } = require('node:events')
const { Stream } = require('node:stream')
const { connect, readAll } = require('./client')

const TIMEOUT = { timeout: 60_000 }
const NAME = 'sticky'
const COOKIE = 'sticky=abc; Path=/; HttpOnly; SameSite=Lax'
const LINE = `Set-Cookie: ${COOKIE}\r\n`

/** The head of a request. */
const head = (first, lines = []) => `${[first, 'Host: test', ...lines].join('\r\n')}\r\n\r\n`

/** The whole answer to the bytes of requests on one connection, at no particular time. */
async function ask(port, bytes) {
  const client = await connect(port)
  client.setEncoding('latin1')
  client.write(bytes)
  return (await readAll(client)).replace(/^Date: .*\r\n/gm, 'Date: now\r\n')
}

/** The port of an HTTP server, until the test is over. */
async function listening(t, server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return server.address().port
}

/** What an application sees of a call. */
function seen(work) {
  try {
    const returned = work()
    return returned instanceof Stream ? 'a stream' : returned
  } catch ({ name, code, message }) {
    return { name, code, message }
  }
}

module.exports = { COOKIE, LINE, NAME, TIMEOUT, ask, head, listening, seen }
