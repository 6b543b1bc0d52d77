'use strict'

// In a worker, any kind of server is fed by a balancer: http, https, http2, tls, net.

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const { createHash, randomBytes } = require('node:crypto')
const { once } = require('node:events')
const fs = require('node:fs')
const http2 = require('node:http2')
const https = require('node:https')
const os = require('node:os')
const path = require('node:path')
const { before, after, test } = require('node:test')
const tls = require('node:tls')
const { connect, loopback, parallel, readAll, request } = require('./support/client')
const { TIMEOUT, pair } = require('./support/worker-server')

/** @type {{ [file: string]: string }} keys and certificates, by their names */
const pem = {}
let certificates

before(() => {
  certificates = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
  const openssl = (...args) => execFileSync('openssl', args, { cwd: certificates, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  const lasts = ['-days', '2']
  openssl('req', '-x509', ...key, ...lasts, '-subj', '/CN=An authority', '-keyout', 'ca.key', '-out', 'ca.crt')
  fs.writeFileSync(path.join(certificates, 'names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1')
  for (const name of ['localhost', 'client']) {
    openssl('req', ...key, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`)
    const by = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names']
    openssl('x509', '-req', '-in', `${name}.csr`, ...by, ...lasts, '-out', `${name}.crt`)
  }
  for (const file of fs.readdirSync(certificates)) pem[file] = fs.readFileSync(path.join(certificates, file), 'utf8')
})

after(() => fs.rmSync(certificates, { recursive: true }))

const secure = () => ({ key: pem['localhost.key'], cert: pem['localhost.crt'] })
const trusting = () => ({ ca: pem['ca.crt'], servername: 'localhost' })

test('http', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'http')
  const { status, body } = await request(port, { method: 'POST', path: '/body', body: 'x'.repeat(100_000) })
  assert.deepEqual([status, body], [200, `${fixture.pid}`])
})

test('https', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'https', secure())
  const response = await new Promise((resolve, reject) => {
    https.get({ port, host: '127.0.0.1', agent: false, ...trusting() }, resolve).on('error', reject)
  })
  assert.equal(response.socket.authorized, true)
  assert.equal(await readAll(response), `${fixture.pid}`)
})

for (const [kind, scheme, server] of [
  ['http2', 'http', () => ({})],
  ['http2secure', 'https', secure],
]) {
  test(`http2 over ${scheme}: many streams on one connection`, TIMEOUT, async (t) => {
    const { fixture, port } = await pair(t, kind, server())
    const session = http2.connect(`${scheme}://127.0.0.1:${port}`, scheme === 'https' ? trusting() : {})
    t.after(() => session.destroy())
    await parallel(20, 20, async () => {
      const stream = session.request({ ':path': '/' })
      const [headers] = await once(stream, 'response')
      assert.equal(headers[':status'], 200)
      assert.equal(await readAll(stream), `${fixture.pid}`)
    })
    assert.equal((await fixture.call('look', 'server')).connections, 1)
    assert.equal(session.alpnProtocol, scheme === 'https' ? 'h2' : 'h2c')
  })
}

test('tls with certificates of clients', TIMEOUT, async (t) => {
  const { fixture, port } = await pair(t, 'tls', { ...secure(), ca: pem['ca.crt'], requestCert: true })
  const to = { port, host: '127.0.0.1', ...trusting() }
  const client = tls.connect({ ...to, key: pem['client.key'], cert: pem['client.crt'] })
  assert.deepEqual(JSON.parse(await readAll(client)), {
    pid: fixture.pid,
    authorized: true,
    encrypted: true,
    name: 'client',
  })
  await assert.rejects(readAll(tls.connect(to)), { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' })
})

test('net: a great deal of bytes both ways, on many connections', TIMEOUT, async (t) => {
  const { port } = await pair(t, 'net')
  const digest = (hash) => hash.digest('hex')
  await parallel(6, 3, async (n) => {
    const sent = randomBytes(8 * 1024 * 1024)
    const client = await connect(port, loopback(n))
    client.end(sent)
    const heard = createHash('sha256')
    for await (const chunk of client) heard.update(chunk)
    assert.equal(digest(heard), digest(createHash('sha256').update(sent)))
  })
})
