'use strict'

// One host of the fleet: a balancer, its workers (server.js), and two ports on which HAProxy asks how it is. In the
// place of run.js, systemd or a container would start it.
//
//   kill <pid>                          takes no new clients, lets sessions end for GRACE milliseconds, and ends
//   start it again beside the first     takes over its port once all workers are ready; then the first one ends
//
// Environment: NAME, ADDRESS, PORT, HEALTH_PORT, AGENT_PORT, WORKERS, STICKY_SEED, what server.js has of Redis, GRACE, and
// TAKE_OVER: a path in a folder that nobody else may write in.

const { fork } = require('node:child_process')
const { once } = require('node:events')
const path = require('node:path')
const sticky = require('../..') // require('sticky-listen') in a program of your own
const { Health } = require('./health')

const { ADDRESS, PORT, HEALTH_PORT, AGENT_PORT, WORKERS = '2', STICKY_SEED, TAKE_OVER } = process.env

// How long a proxy that never asks keeps a host that wants to go, in milliseconds.
const PATIENCE = 5000

// By slot. Not of node:cluster, whose workers exit at once when their primary process dies: these let their sessions end.
/** @type {import('node:child_process').ChildProcess[]} */
const workers = []

function start(slot) {
  const worker = fork(path.join(__dirname, 'server.js'))
  workers[slot] = worker
  // A message to a worker that is just dying fails; its end is noticed anyway.
  worker.on('error', () => {})
  worker.once('exit', () => setTimeout(() => balancer.listening && start(slot), 100))
}
for (let slot = 0; slot < Number(WORKERS); slot++) start(slot)

const balancer = sticky.createBalancer(() => workers, {
  // HAProxy says who the client is; the application sees that address as well.
  proxyProtocol: true,
  // A session stays with its slot, and new ones go where there is room.
  affinity: { query: 'sid' },
  // The same on all hosts and in all versions: a token means the same slot, whoever reads it.
  seed: STICKY_SEED,
  takeOver: TAKE_OVER,
  // Ten seconds for a successor of a worker that died.
  maxRetries: 100,
  retryDelay: 100,
})
const health = new Health(balancer, TAKE_OVER && `${TAKE_OVER}.health`)

// Another version serves in its place; or leave() has closed it.
balancer.once('superseded', retire)
balancer.once('close', retire)

/** Each worker ends when its sessions have, and this process after the last. */
function retire() {
  for (const worker of workers) if (worker.connected) worker.disconnect()
}

balancer.listen(Number(PORT), ADDRESS)
health.listen(Number(HEALTH_PORT), Number(AGENT_PORT), ADDRESS).then(() => process.send?.('ready'))

process.once('SIGTERM', leave)

/** Ends, so that nobody is sent here meanwhile. */
async function leave() {
  // Who comes all the same is told to try another host.
  balancer.drain()
  health.drain()
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE).unref())
  // Or until another version has taken over.
  await Promise.race([told('drain'), once(balancer, 'close'), patience])
  balancer.close()
}

/** Once a proxy has heard of this state. */
async function told(state) {
  let last
  do [last] = await once(health, 'told')
  while (last !== state)
}

// run.js ends with all that it has started, however it ends.
if (process.channel) {
  process.on('disconnect', () => process.kill(-process.pid, 'SIGKILL'))
  process.channel.unref()
}
