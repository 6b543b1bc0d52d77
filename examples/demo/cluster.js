'use strict'

// The demo's primary process: recluster keeps four workers running, the balancer hands each client to
// one of them. The page at http://localhost:8081 shows what goes on here, and its buttons act here.
//
//   node examples/demo/cluster.js     PORT: another port than 8081
//   kill -USR2 <pid>                  reload: fresh workers take over, then the old ones end
//   Ctrl+C, kill <pid>                end
//
// Anyone who can open the page can use its buttons. That is fine for a demo, and for nothing else.

const { once } = require('node:events')
const path = require('node:path')
const recluster = require('recluster')
const sticky = require('../..') // require('sticky-listen') in a program of your own

const PORT = Number(process.env.PORT || 8081)

// How often pages get a new picture, in milliseconds.
const INTERVAL = Number(process.env.INTERVAL || 500)

// How long workers may take to end before they are killed, in seconds.
const TIMEOUT = 10

const cluster = recluster(path.join(__dirname, 'server.js'), {
  workers: 4,
  readyWhen: 'ready',
  timeout: TIMEOUT,
  respawn: 0.2,
  backoff: 2,
  log: {},
})

// A message to a worker that is dying at that moment fails, and as an error that nobody listens to it
// would end this process. The worker's end itself is noticed anyway.
require('node:cluster').on('fork', (worker) => worker.on('error', () => {}))

const balancer = sticky.createBalancer(cluster.activeWorkers, {
  // Five seconds: a killed worker's clients wait until its successor is there, and notice only a delay.
  maxRetries: 50,
  retryDelay: 100,
})

balancer.listen(PORT, () => {
  cluster.run()
  const { port } = balancer.address()
  console.log(
    `The demo of sticky-listen runs at http://localhost:${port} (Ctrl+C ends it, kill -USR2 ${process.pid} reloads it)`,
  )
})

balancer.on('error', (error) => {
  const reason =
    error.code === 'EADDRINUSE'
      ? `port ${PORT} is in use. Choose another, for example: PORT=${PORT + 1} npm start`
      : error.message
  console.error(`The demo cannot start: ${reason}`)
  process.exit(1)
})

process.on('SIGUSR2', reload)
process.on('SIGINT', end)
process.on('SIGTERM', end)

// ---- Reload and end ----

let reloading = false
let reloadWanted = false
let ending = false

/** Whether every slot has its worker. */
function isComplete() {
  return Array.from(cluster.activeWorkers()).every(Boolean)
}

/** Replaces all workers, once that is possible. */
function reload() {
  reloadWanted = true
  // recluster takes any worker that becomes ready meanwhile for one of the reload's, and would end the
  // old ones too early; so a reload waits for its turn.
  if (reloading || ending || !isComplete()) return
  reloadWanted = false
  reloading = true
  const began = Date.now()
  const before = pids()
  cluster.reload(() => {
    reloading = false
    report(`Cluster reloaded: workers ${pids()} took over from ${before}, slot by slot, in ${seconds(began)}.`)
    if (reloadWanted) reload()
  })
  publish()
}

async function end() {
  // Ctrl+C under npm may arrive twice.
  if (ending) return
  ending = true
  // First the balancer: nobody new comes in, and who waits is still served.
  balancer.close()
  await once(balancer, 'close')
  // recluster would replace the workers that end now.
  cluster.stop()
  const ended = cluster.workers().map((worker) => new Promise((resolve) => worker.process.once('exit', resolve)))
  for (const worker of cluster.workers()) {
    if (worker.isConnected()) worker.disconnect()
  }
  setTimeout(() => cluster.terminate(), TIMEOUT * 1000)
  await Promise.all(ended)
  // Timers of recluster may be left.
  process.exit(0)
}

// ---- What happened, in words ----

/** @type {{ id: number, time: number, text: string }[]} the latest */
const events = []
let lastEvent = 0

/** The slot of each worker that was ready. */
const slots = new Map()

/** For each slot without a worker: the one that it lost, and when. */
const lost = new Map()

cluster.on('ready', (worker) => {
  // recluster fills the slot right after this event.
  setImmediate(() => {
    const slot = Array.from(cluster.activeWorkers()).indexOf(worker)
    if (slot === -1) return
    slots.set(worker, slot)
    const loss = lost.get(slot)
    lost.delete(slot)
    if (loss)
      report(`${loss.how}; worker ${worker.process.pid} took over its slot ${slot} after ${seconds(loss.time)}.`)
    if (reloadWanted) reload()
    publish()
  })
})

cluster.on('exit', (worker) => {
  watchers.delete(worker)
  const slot = slots.get(worker)
  slots.delete(worker)
  // Who was told to go, at a reload, is no loss.
  if (slot === undefined || worker.exitedAfterDisconnect) return
  const { pid, exitCode, signalCode } = worker.process
  const how =
    signalCode === 'SIGKILL'
      ? `Worker ${pid} was killed`
      : `Worker ${pid} ended (${signalCode ?? `exit code ${exitCode}`})`
  lost.set(slot, { how, time: Date.now() })
  publish()
})

/** @param {string} text */
function report(text) {
  console.log(text)
  events.push({ id: ++lastEvent, time: Date.now(), text })
  if (events.length > 20) events.shift()
  publish()
}

/** @param {number} since */
function seconds(since) {
  return `${((Date.now() - since) / 1000).toFixed(1)} s`
}

function pids() {
  return Array.from(cluster.activeWorkers(), (worker) => worker?.process.pid ?? 'none').join(', ')
}

// ---- Pages, by way of the workers that serve them ----

/** The workers that have a page open. */
const watchers = new Set()

/** @type {NodeJS.Timeout | undefined} */
let ticker

cluster.on('message', (worker, message) => {
  if (message?.cmd === 'watch') {
    watchers.add(worker)
    // Nobody looks, nothing ticks.
    ticker ??= setInterval(publish, INTERVAL)
    tell(worker, picture())
  } else if (message?.cmd === 'unwatch') {
    watchers.delete(worker)
  } else if (message?.cmd === 'reload') {
    reload()
  } else if (message?.cmd === 'kill' && !reloading) {
    worker.process.kill('SIGKILL')
  }
})

/** Sends all pages a picture of now. */
function publish() {
  if (watchers.size === 0) {
    clearInterval(ticker)
    ticker = undefined
    return
  }
  const now = picture()
  for (const worker of watchers) tell(worker, now)
}

function picture() {
  return {
    cmd: 'picture',
    picture: {
      cluster: process.pid,
      now: Date.now(),
      reloading,
      stats: balancer.stats(),
      steering: balancer.steering,
      events,
    },
  }
}

function tell(worker, message) {
  if (worker.isConnected()) worker.send(message)
}
