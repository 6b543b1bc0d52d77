'use strict'

// Workers that get the hand-shake wrong: what they do is said in the debug output, comes to a defined
// end, and leaks nothing; a good worker in their place is served at once.

const assert = require('node:assert/strict')
const { test } = require('node:test')
const { VERSION } = require('../../lib/messages')
const { request, until } = require('../support/client')
const { fdCount, signal, start } = require('../support/process')

const IMPATIENT = { maxRetries: 2, retryDelay: 50 }
const PATIENT = { maxRetries: 400, retryDelay: 50 }

async function odd(t, how, options) {
  const primary = start(t, 'odd-primary.js', { args: [how, options], env: { NODE_DEBUG: 'sticky-listen' } })
  const { port } = await primary.call('start')
  return { primary, port }
}

const unserved = {
  'never listens': /slots: \[4294967295\]/,
  'speaks another version': new RegExp(
    `STICKY_VERSION_MISMATCH.*speaks version 99 of the protocol and this process ${VERSION}\\.`,
  ),
  'says hello in another version': new RegExp(
    `STICKY_VERSION_MISMATCH.*speaks version 9 of the protocol and this process ${VERSION}\\.`,
  ),
  'says garbage': /channel 1 ended: garbage/,
  'goes in the middle of a word': /channel 1 ended: closed/,
  'acknowledges what it was not sent': /channel 1 ended: garbage/,
}

for (const [how, said] of Object.entries(unserved)) {
  test(`fault 5, a worker ${how}: said, refused, and a good one takes its place`, async (t) => {
    const { primary, port } = await odd(t, how, IMPATIENT)
    await until(() => said.test(primary.stderr))
    const fds = fdCount(primary.pid)
    for (let n = 0; n < 10; n++) assert.equal((await request(port)).status, 502)
    await until(() => fdCount(primary.pid) <= fds)
    const pid = await primary.call('replace')
    await until(async () => (await primary.call('stats')).slots[0].pid === pid)
    assert.equal(Number((await request(port)).body), pid)
  })
}

test('fault 5, a worker listens late: who waits for it is served when it does', async (t) => {
  const { primary, port } = await odd(t, 'listens late', PATIENT)
  const answers = Array.from({ length: 20 }, () => request(port))
  await until(async () => (await primary.call('stats')).waiting === 20)
  await primary.call('tell', 'listen')
  for (const { status } of await Promise.all(answers)) assert.equal(status, 200)
})

test('fault 5, a worker listens twice: an error there, and it serves all the same', async (t) => {
  const { primary, port } = await odd(t, 'listens twice', PATIENT)
  assert.equal(await primary.next('error'), 'ERR_SERVER_ALREADY_LISTEN')
  assert.equal(await primary.next('error'), 'ERR_STICKY_NAME_TAKEN')
  assert.equal((await request(port)).status, 200)
})

test('fault 5, a worker says no hello: its channel ends, and it is offered another', async (t) => {
  const { primary } = await odd(t, 'says no hello', IMPATIENT)
  await until(() => /channel 1 ended: silent/.test(primary.stderr))
  await until(() => /offered channel 2/.test(primary.stderr))
})

test('fault 5, a worker reads no messages: a channel that waits in the full pipe is withdrawn unharmed', async (t) => {
  const primary = start(t, 'full-pipe.js')
  const pid = await primary.call('start')
  signal(pid, 'SIGSTOP')
  for (const number of [1, 2, 3]) await primary.call('say', number)
  // Each offers the worker a channel and takes it back.
  for (let n = 0; n < 3; n++) {
    await primary.call('listen')
    await primary.call('close')
  }
  signal(pid, 'SIGCONT')
  const heard = []
  while (heard.at(-1) !== 3) heard.push(await primary.next('heard'))
  const { port } = await primary.call('listen')
  assert.equal(Number((await request(port)).body), pid)
})
