'use strict'

// Sessions of socket.io in a browser, which opens several connections to a page's server and uses them for whatever comes.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { launch, skip } = require('../support/browser')
const { request, until } = require('../support/client')
const { sessions } = require('../support/sessions')

const TIMEOUT = { skip, timeout: 120_000 }
const ANSWERS = 10

const AFFINITIES = [{ query: 'sid' }, { query: 'sid', cookie: 'sticky' }, { cookie: 'sticky' }]

/** A balancer, and a browser with nothing of its past; what it was refused, and which sessions were not known. */
async function browsing(t, affinity) {
  const { primary, port } = await sessions(t, { worker: 'page-worker.js', options: { affinity } })
  const unknown = []
  const refused = []
  primary.on('event:unknown', (session) => unknown.push(session))
  return {
    unknown,
    /** Another browser, with no cookies. */
    async context() {
      const context = await (await launch()).newContext()
      t.after(() => context.close())
      // The test's own will do.
      context.setDefaultTimeout(0)
      context.on('response', (response) => {
        if (response.status() >= 400) refused.push(`${response.status()} ${response.url()}`)
      })
      return context
    },
    url: (hash) => `http://127.0.0.1:${port}/#${hash}`,
    /** Every request has come to a worker that knows its session; and where one does not, it would have been noticed. */
    async assertUndisturbed() {
      assert.deepEqual(refused, [])
      assert.deepEqual(unknown, [])
      const { status } = await request(port, { path: '/socket.io/?EIO=4&transport=polling&sid=nobody' })
      assert.equal(status, 400)
      await until(() => unknown.length > 0)
      assert.deepEqual(unknown, ['nobody'])
    },
  }
}

/** Each socket of a page has had its answers, and none has lost its session. */
async function answered(page) {
  // By a timer, as tabs that are not in front may draw nothing.
  const over = (count) => window.failed?.length > 0 || window.answers?.every((answers) => answers >= count)
  await page.waitForFunction(over, ANSWERS, { polling: 50 })
  assert.deepEqual(await page.evaluate(() => window.failed), [])
}

for (const affinity of AFFINITIES) {
  const by = JSON.stringify(affinity)

  test(`${by}: a page, its pictures and its session, at the first visit and later ones`, TIMEOUT, async (t) => {
    const { context, url, assertUndisturbed } = await browsing(t, affinity)
    for (const hash of ['sockets=1', 'sockets=1&polling']) {
      const page = await (await context()).newPage()
      for (let visit = 0; visit < 2; visit++) {
        await page.goto(url(hash))
        if (visit > 0) await page.reload()
        await answered(page)
      }
    }
    await assertUndisturbed()
  })

  test(`${by}: several sessions of a page, and several tabs`, TIMEOUT, async (t) => {
    const { context, url, assertUndisturbed } = await browsing(t, affinity)
    // No more: a browser has six connections to a server, and each session's poll waits on one of them.
    for (const [count, hash] of [
      [1, 'sockets=2&polling'],
      [2, 'sockets=1&polling'],
      [2, 'sockets=1'],
    ]) {
      const browser = await context()
      // The first page comes alone, and brings the cookie, if there is one.
      const tabs = [await browser.newPage()]
      await tabs[0].goto(url(hash))
      while (tabs.length < count) tabs.push(await browser.newPage())
      await Promise.all(tabs.slice(1).map((page) => page.goto(url(hash))))
      await Promise.all(tabs.map(answered))
    }
    await assertUndisturbed()
  })
}
