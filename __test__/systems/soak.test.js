'use strict'

// The soak (soak/): what it decides by itself, a short run that has to find nothing, and one that has to find something.

const assert = require('node:assert/strict')
const { execFile } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')
const { historyOf } = require('../../soak/history')
const { judge } = require('../../soak/oracle/judge')
const { shortest } = require('../../soak/shrink')
const { directory } = require('../support/places')
const { has } = require('../support/tools')

// It looks into /proc, and the clients have addresses of their own.
const skip = process.platform !== 'linux' && 'for Linux'

const RUN = path.join(__dirname, '..', '..', 'soak', 'run.js')

test('a history follows from its seed', () => {
  for (let seed = 0; seed < 100; seed++) {
    const history = historyOf(seed, 60_000)
    assert.deepEqual(JSON.parse(JSON.stringify(history)), history)
    assert.deepEqual(historyOf(seed, 60_000), history)
    assert.notDeepEqual(historyOf(seed + 1, 60_000).steps, history.steps)
  }
})

test('a failing list is shortened to what it takes', async () => {
  const list = Array.from({ length: 50 }, (_, n) => n)
  for (const needed of [[], [7], [0, 49], [3, 20, 21, 40]]) {
    const fails = async (part) => needed.every((n) => part.includes(n))
    assert.deepEqual(await shortest(list, fails), needed)
  }
  // What there is when the time is over.
  assert.deepEqual(await shortest(list, assert.fail, () => true), list)
})

// A history in which worker 11 has slot 0 and 12 slot 1, of the primary 10. Client "a" is for slot 0, "b" for slot 1.
const CONNECTION = { way: 'plain', nth: 0, began: 20_000, ended: 20_010 }
const of = (id, client, worker) => ({ ...CONNECTION, id, client, key: `${client}:1`, status: 200, worker })
const lost = (id, client, error = 'ECONNRESET') => ({ ...CONNECTION, id, client, key: `${client}:1`, error })
const answered = (id, pid, t = 20_005) => ({ t, pid, what: 'answered', id, key: '' })
const adopted = (client, pid, t = 20_004) => ({ t, pid, what: 'adopted', key: `${client}:1` })
const table = (t, pids, pid = 10) => ({ t, pid, what: 'table', pids })
const takeover = (t, pid) => ({ t, pid, what: 'takeover' })
const kill = (pid, from = 20_006) => ({ kind: 'kill', pid, from, to: from })
const TABLE = [{ t: 0, pid: 10, what: 'slots', count: 2, slotOf: [0, 1] }, table(0, [11, 12])]

function judged({ options = {}, entries = [], tokens = [], ...rest }) {
  const evidence = { kernel: false, exchanges: [], faults: [], troubles: [], clients: ['a', 'b'], ...rest }
  const sorted = [...TABLE, ...entries].sort((one, other) => one.t - other.t)
  const configuration = { manager: 'own', slots: 2, width: 1, options }
  const { violations, outcomes } = judge({ ...evidence, entries: sorted, tokens: new Map(tokens), configuration })
  return [...violations.map(({ rule }) => rule), ...Object.keys(outcomes).filter((outcome) => outcome !== 'violation')]
}

const emptied = [table(15_000, [null, 12]), table(20_800, [13, 12])]
const waited = { ...of('1', 'a'), began: 20_000, ended: 20_760, status: 502 }
const cases = {
  'an answer of its own worker': [{ exchanges: [of('1', 'a', 11)], entries: [answered('1', 11)] }, 'answered'],
  'an answer of another worker': [{ exchanges: [of('1', 'a', 12)], entries: [answered('1', 12)] }, 'sticky'],
  'an answer of the worker before, just after it was replaced': [
    { exchanges: [of('1', 'a', 11)], entries: [answered('1', 11), table(19_000, [13, 12])] },
    'answered',
  ],
  'an answer of the worker before, long after it was replaced': [
    { exchanges: [of('1', 'a', 11)], entries: [answered('1', 11), table(10_000, [13, 12])] },
    'sticky',
  ],
  'an answer of the worker before, which was stuck': [
    {
      exchanges: [of('1', 'a', 11)],
      entries: [answered('1', 11), table(10_000, [13, 12])],
      faults: [{ kind: 'stop', pid: 11, from: 9000, to: 19_990 }],
    },
    'answered',
  ],
  'an answer of a primary that has not taken over yet': [
    { exchanges: [of('1', 'a', 21)], entries: [answered('1', 21), table(19_000, [21, 22], 20)] },
    'sticky',
  ],
  'an answer of a primary that has taken over': [
    { exchanges: [of('1', 'a', 21)], entries: [answered('1', 21), table(10_000, [21, 22], 20), takeover(10_000, 20)] },
    'answered',
  ],
  'other slots for clients after an upgrade': [
    { entries: [{ t: 10_000, pid: 20, what: 'slots', count: 2, slotOf: [1, 1] }] },
    'sticky',
  ],
  'an answer that no worker wrote down': [{ exchanges: [of('1', 'a', 11)] }, 'answered once'],
  'two answers': [{ exchanges: [of('1', 'a', 11)], entries: [answered('1', 11), answered('1', 12)] }, 'answered once'],
  'two answers, of which the client saw none': [
    { exchanges: [lost('1', 'a')], entries: [answered('1', 11), answered('1', 11)] },
    'answered once',
  ],
  'an answer to something else': [
    { exchanges: [{ ...of('1', 'a', 11), error: 'answered with 2' }], entries: [answered('1', 11)] },
    'not a byte lost',
  ],
  'an odd status': [{ exchanges: [{ ...of('1', 'a'), status: 400 }] }, 'answered'],
  'a refused connection': [{ exchanges: [lost('1', 'a', 'ECONNREFUSED')], faults: [kill(11)] }, 'never refused'],
  'a client that hangs': [{ exchanges: [lost('1', 'a', 'hangs')], faults: [kill(11)] }, 'nobody hangs'],
  'a reset that nobody explains': [{ exchanges: [lost('1', 'a')] }, 'nothing is lost'],
  'a reset by a worker that lives': [
    { exchanges: [lost('1', 'a')], entries: [adopted('a', 11)], faults: [kill(12)] },
    'nothing is lost',
  ],
  'a reset by a worker that was killed': [
    { exchanges: [lost('1', 'a')], entries: [adopted('a', 11)], faults: [kill(11)] },
    'lost with its worker',
  ],
  'a reset of what was handed over and not adopted, beside a kill': [
    { exchanges: [lost('1', 'a')], faults: [kill(11)] },
    'nothing is lost',
  ],
  'a reset of what the kernel gave to a worker that was killed': [
    { kernel: true, exchanges: [lost('1', 'a')], faults: [kill(11)] },
    'lost with its worker',
  ],
  'two such resets for one kill': [
    { kernel: true, exchanges: [lost('1', 'a'), lost('2', 'a')], faults: [kill(11)] },
    'nothing is lost',
    'lost with its worker',
  ],
  'a reset for which another slot was killed': [
    { kernel: true, exchanges: [lost('1', 'a')], faults: [kill(12)] },
    'nothing is lost',
  ],
  'a reset while the primary has no descriptors': [
    { exchanges: [lost('1', 'a')], faults: [{ kind: 'primary-descriptors', from: 19_000, to: 21_000 }] },
    'shed',
  ],
  'a reset of what a primary had when it was killed': [
    { exchanges: [lost('1', 'a')], faults: [{ kind: 'orphan', pid: 10, from: 20_000, to: 21_000 }] },
    'lost with its primary',
  ],
  'a reset of what a worker had when its primary was killed': [
    {
      exchanges: [lost('1', 'a')],
      entries: [adopted('a', 11)],
      faults: [{ kind: 'orphan', pid: 10, from: 20_000, to: 21_000 }],
    },
    'nothing is lost',
  ],
  'a 502 between a primary that was killed and the next one': [
    {
      exchanges: [waited],
      entries: [table(20_800, [21, 22], 20)],
      faults: [{ kind: 'orphan', pid: 10, from: 20_000, to: 20_800 }],
    },
    '502',
  ],
  'a kept connection that ends with a worker that leaves': [
    { exchanges: [{ ...lost('1', 'a'), nth: 1 }], entries: [adopted('a', 11), table(19_000, [13, 12])] },
    'kept by one that left',
  ],
  'a kept connection that just ends': [
    { exchanges: [{ ...lost('1', 'a'), nth: 1 }], entries: [adopted('a', 11)] },
    'nothing is lost',
  ],
  'a 502 of a slot that is empty for long enough': [{ exchanges: [waited], entries: emptied }, '502'],
  'a 502 of a slot whose worker was killed before that was noticed': [
    { exchanges: [waited], entries: [table(20_700, [null, 12]), table(20_800, [13, 12])], faults: [kill(11, 19_000)] },
    '502',
  ],
  'a 502 of one slot after the other that is empty': [
    {
      exchanges: [{ ...waited, client: 'b' }],
      entries: [
        { t: 0, pid: 10, what: 'slots', count: 1, slotOf: [0, 0] },
        table(19_000, [null]),
        table(20_100, [13, null]),
        table(20_800, [13, 12]),
      ],
    },
    '502',
  ],
  'a 502 of a slot with a worker': [{ exchanges: [waited] }, 'refused with reason'],
  'a 502 too early': [{ exchanges: [{ ...waited, ended: 20_500 }], entries: emptied }, 'refused with reason'],
  'a 502 for the slot beside an empty one': [
    { exchanges: [{ ...waited, client: 'b' }], entries: emptied },
    'refused with reason',
  ],
  'a 503 where more than may wait do': [
    {
      options: { maxPending: 1 },
      exchanges: [{ ...of('1', 'a'), status: 503 }, of('2', 'a', 11)],
      entries: [answered('2', 11)],
    },
    '503',
    'answered',
  ],
  'a 503 where nobody else waits': [
    { options: { maxPending: 1 }, exchanges: [{ ...of('1', 'a'), status: 503 }] },
    'refused with reason',
  ],
  'a session at its slot': [
    {
      options: { affinity: { query: 'sid' } },
      tokens: [['t', 1]],
      exchanges: [{ ...of('1', 'a', 12), shown: 't' }],
      entries: [answered('1', 12)],
    },
    'answered',
  ],
  'a session at another slot': [
    {
      options: { affinity: { query: 'sid' } },
      tokens: [['t', 1]],
      exchanges: [{ ...of('1', 'a', 11), shown: 't' }],
      entries: [answered('1', 11)],
    },
    'sticky',
  ],
  'a session of a slot that is gone': [
    {
      options: { affinity: { query: 'sid' } },
      tokens: [['t', 5]],
      exchanges: [{ ...of('1', 'a', 11), shown: 't' }],
      entries: [answered('1', 11)],
    },
    'answered',
  ],
  'a worker that crashes': [
    { entries: [{ t: 20_000, pid: 10, what: 'exit', child: 11, code: null, signal: 'SIGSEGV' }] },
    'nobody crashes',
  ],
  'a worker that is killed': [
    { entries: [{ t: 20_100, pid: 10, what: 'exit', child: 11, code: null, signal: 'SIGKILL' }], faults: [kill(11)] },
  ],
  'counters that lose a connection': [
    { entries: [{ t: 20_000, pid: 10, what: 'closed', stats: { ...counters(), accepted: 5 } }] },
    'counters add up',
  ],
  'counters of which a worker has the rest': [
    {
      entries: [
        { t: 20_000, pid: 10, what: 'closed', stats: { ...counters(), accepted: 5, slots: [{ inFlight: 1 }] } },
      ],
    },
  ],
  'counters of a primary whose queue in the kernel its successor has taken': [
    {
      kernel: true,
      entries: [
        table(10_000, [21, 22], 20),
        takeover(10_000, 20),
        { t: 20_000, pid: 10, what: 'closed', stats: { ...counters(), accepted: 5 } },
      ],
    },
  ],
  'counters that lose a connection in the kernel': [
    { kernel: true, entries: [{ t: 20_000, pid: 10, what: 'closed', stats: { ...counters(), accepted: 5 } }] },
    'counters add up',
  ],
  'counters that add up': [{ entries: [{ t: 20_000, pid: 10, what: 'closed', stats: counters() }] }],
  'what was seen from outside': [{ troubles: [{ at: 0, text: 'the primary ended' }] }, 'all is well'],
}

function counters() {
  return { accepted: 4, adopted: 1, refused: 1, gone: 1, rejected: 1, waiting: 0, identifying: 0, slots: [] }
}

for (const [what, [evidence, ...expected]] of Object.entries(cases)) {
  test(`the oracle on ${what}: ${expected.join(', ') || 'nothing'}`, () => {
    assert.deepEqual(judged(evidence), expected)
  })
}

/** Runs the soak; resolves to how it ended and what it said. */
function soak(args, env) {
  return new Promise((resolve) => {
    execFile(process.execPath, [RUN, ...args], { env: { ...process.env, ...env } }, (error, stdout, stderr) => {
      resolve({ code: error?.code ?? 0, said: stdout + stderr })
    })
  })
}

/** One step of each kind, some at the same time. */
const EVENTFUL = [
  { at: 300, kind: 'burst', count: 60 },
  { at: 500, kind: 'stop', pick: 0, ms: 700 },
  { at: 600, kind: 'kill', pick: 1 },
  { at: 900, kind: 'hostile', count: 40 },
  { at: 1500, kind: 'replace', pick: 1 },
  { at: 2000, kind: 'upgrade', count: 3 },
  { at: 3000, kind: 'block', ms: 400 },
  { at: 3100, kind: 'kill', pick: 2 },
  { at: 4000, kind: 'resize', count: 2 },
  { at: 4500, kind: 'worker-descriptors', pick: 0, ms: 800, count: 90 },
  { at: 4600, kind: 'burst', count: 150 },
  { at: 5500, kind: 'empty', pick: 0, ms: 500 },
  { at: 6000, kind: 'abort-upgrade', ms: 400 },
  { at: 6500, kind: 'reload' },
  { at: 7000, kind: 'primary-descriptors', ms: 400, count: 20 },
  { at: 7100, kind: 'clock', ms: 3_600_000 },
  { at: 7600, kind: 'orphan', count: 2 },
]

for (const [way, manager, options] of [
  ['the kernel steers', 'own', {}],
  ['sessions are handed over', 'cluster', { affinity: { query: 'sid', cookie: 'sticky' } }],
]) {
  test(`eight seconds with a fault of each kind, where ${way}: every connection is accounted for`, {
    skip,
  }, async (t) => {
    if (!has(t, 'prlimit')) return
    const patient = { maxRetries: 600, retryDelay: 100 }
    const configuration = { manager, slots: 2, options: { ...patient, ...options }, width: 12 }
    const file = path.join(directory(t), 'history.json')
    fs.writeFileSync(file, JSON.stringify({ seed: 1, ms: 8000, configuration, steps: EVENTFUL }))
    const { code, said } = await soak(['--replay', file, '--tries', '1'])
    t.diagnostic(said.trim().split('\n').slice(-3).join('\n'))
    assert.equal(code, 0, said)
  })
}

test('a worker that drops connections is found, and the history shortened to nothing', { skip }, async (t) => {
  const folder = directory(t)
  const drops = require.resolve('../fixtures/dropping-worker')
  const args = ['--seed', '1', '--minutes', '0.01', '--seconds', '2', '--tries', '1', '--out', folder]
  const { code, said } = await soak(args, { NODE_OPTIONS: `--require=${drops}` })
  assert.equal(code, 1, said)
  assert.match(said, /nothing is lost: (closed|ECONNRESET), and worker \d+ had adopted it/)
  assert.match(said, /\n0 of \d+ steps still violate "nothing is lost"/)
  const [file] = fs.readdirSync(folder)
  assert.deepEqual(JSON.parse(fs.readFileSync(path.join(folder, file), 'utf8')).steps, [])
})
