'use strict'

// Sessions of socket.io in a browser, which opens several connections to a page's server and uses them for whatever comes.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { launch, skip } = require('./support/browser')
const { sessions } = require('./support/sessions')

const ANSWERS = 20

for (const affinity of [{ query: 'sid' }, { query: 'sid', cookie: 'sticky' }, { cookie: 'sticky' }]) {
  test(`${JSON.stringify(affinity)}: a page, its pictures and its session, at the first visit and later ones`, {
    skip,
    timeout: 60_000,
  }, async (t) => {
    const { primary, port } = await sessions(t, { worker: 'page-worker.js', options: { affinity } })
    let unknown = 0
    primary.on('unknown', () => unknown++)
    for (const hash of ['', '#polling']) {
      const context = await (await launch()).newContext()
      t.after(() => context.close())
      const page = await context.newPage()
      for (let visit = 0; visit < 2; visit++) {
        await page.goto(`http://127.0.0.1:${port}/${hash}`)
        if (visit > 0) await page.reload()
        await page.waitForFunction((count) => window.answers >= count, ANSWERS)
        assert.deepEqual(await page.evaluate(() => window.failed), [])
      }
    }
    assert.equal(unknown, 0)
  })
}
