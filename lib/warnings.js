'use strict'

// Every process warning that is ours: what is wrong though nothing has failed, or nobody is there to catch an error.

const { Worker } = require('node:worker_threads')
const { inWords, readOn } = require('./help')

/**
 * @param {string} code
 * @param {string} message what is wrong, and what to do about it
 * @param {string} [detail]
 */
function warn(code, message, detail) {
  process.emitWarning(`${message} ${readOn(code)}`, { type: 'StickyListenWarning', code, detail })
}

/** @param {number} milliseconds */
const seconds = (milliseconds) => `${Math.round(milliseconds / 1000)} s`

/** @param {string} name of a server and its balancers */
const named = (name) => (name === 'default' ? '' : ` under the name "${name}"`)

/**
 * A warning and no error: programs written for other versions may pass options that they could do without.
 * @param {string} option
 * @param {string | null} near the known one that may be meant
 */
function unknownOption(option, near) {
  const meant = near === null ? '' : ` Did you mean "${near}"?`
  warn('STICKY_UNKNOWN_OPTION', `The option "${option}" is unknown and has no effect.${meant}`)
}

/**
 * @param {string} reason
 * @param {string} [stack]
 */
function activeWorkersFailed(reason, stack) {
  warn('STICKY_ACTIVE_WORKERS_FAILED', `activeWorkers() failed, so the last table stays in use: ${reason}.`, stack)
}

/**
 * @param {number} slot
 * @param {unknown} worker what is there in its place
 */
function noProcess(slot, worker) {
  const remedy =
    worker instanceof Worker
      ? 'A thread can take no connections: fork processes.'
      : 'Return those that cluster.fork() or child_process.fork() return, and null for an empty slot.'
  warn(
    'STICKY_NO_PROCESS',
    `Slot ${slot} is empty, as activeWorkers() returns no process with an IPC channel for it. Received ${inWords(worker)}. ${remedy}`,
  )
}

/**
 * @param {number} since milliseconds ago
 * @param {string} name
 * @param {number[]} [clustered] the workers of `node:cluster`, where they are meant
 */
function noWorkers(since, name, clustered) {
  const listen = `Call sticky.listen(server)${named(name)} in each worker.`
  let what = 'activeWorkers() has returned none. Have it return the workers that are ready.'
  if (clustered?.length === 0) what = `node:cluster has none. Fork some. ${listen}`
  else if (clustered) what = `those of node:cluster (${clustered.join(', ')}) take no connections. ${listen}`
  warn('STICKY_NO_WORKERS', `The balancer has had no worker for ${seconds(since)}: ${what}`)
}

/**
 * @param {number} pid
 * @param {number} slot
 * @param {number} since milliseconds ago
 * @param {string} name
 */
function notListening(pid, slot, since, name) {
  warn(
    'STICKY_WORKER_NOT_LISTENING',
    `Worker ${pid} has been in slot ${slot} for ${seconds(since)} and has not called sticky.listen(server)${named(name)}, ` +
      'while clients wait for it. Call it in the worker, or keep the worker out of activeWorkers() until it has.',
  )
}

/**
 * @param {number} pid
 * @param {number} theirs
 * @param {number} ours
 */
function otherVersion(pid, theirs, ours) {
  warn(
    'STICKY_VERSION_MISMATCH',
    `Worker ${pid} gets no connections: it speaks version ${theirs} of the protocol and this process ${ours}. Install one ` +
      'version of sticky-listen for both, and restart the older process.',
  )
}

/** @param {number} count of connections */
const connectionsWere = (count) => (count === 1 ? '1 connection was' : `${count} connections were`)

const REFUSALS = {
  502: { code: 'STICKY_BAD_GATEWAY', what: 'answered 502 Bad Gateway' },
  503: { code: 'STICKY_OVERLOADED', what: 'answered 503 Service Unavailable' },
}

/**
 * @param {number | null} slot
 * @param {502 | 503} status
 * @param {number} count
 * @param {string} reason
 */
function refused(slot, status, count, reason) {
  const { code, what } = REFUSALS[status]
  const whose = slot === null ? '' : ` for slot ${slot}`
  warn(code, `${connectionsWere(count)} ${what}${whose}: ${reason}.`)
}

/** @param {number} count */
function outOfDescriptors(count) {
  warn(
    'STICKY_OUT_OF_DESCRIPTORS',
    `${connectionsWere(count)} closed without an answer, as this process has no file descriptors left. Raise its limit ` +
      '(ulimit -n).',
  )
}

/**
 * In a worker.
 * @param {number} since milliseconds ago
 * @param {string} name
 */
function noBalancer(since, name) {
  const { pm_id: pm2, exec_mode: mode } = process.env
  const remedy =
    pm2 !== undefined && mode === 'cluster_mode'
      ? "PM2 forked it, which runs no balancer: start a primary process of your own in PM2's fork mode."
      : 'The process that forked this one has to call sticky.createBalancer(…).listen(port), and its activeWorkers() to ' +
        'return this worker.'
  warn(
    'STICKY_NO_BALANCER',
    `Worker ${process.pid} has heard of no balancer${named(name)} for ${seconds(since)} after sticky.listen(server), and ` +
      `gets no connections. ${remedy}`,
  )
}

/**
 * In a worker.
 * @param {string} address
 * @param {number} slots
 */
function oneAddress(address, slots) {
  warn(
    'STICKY_ONE_ADDRESS',
    `Connections of worker ${process.pid} come from ${address} and from nowhere else, in a sample of one in 64: to the ` +
      `balancer that is one client, whose slot is one of ${slots}. Behind a proxy use the option behindProxy or proxyProtocol; with Docker publish ports ` +
      'without its userland proxy; where clients share an address use affinity; for a load test use several addresses.',
  )
}

/**
 * @param {string} path
 * @param {string} reason
 */
function notOffered(path, reason) {
  warn(
    'STICKY_NOT_OFFERED',
    `No other primary process can take over from this one: listening at ${path} failed: ${reason}. It is ` +
      'tried again once a second.',
  )
}

/** @param {string} name */
function sessionsHidden(name) {
  warn(
    'STICKY_SESSIONS_HIDDEN',
    `The server that listens under the name "${name}" gets requests that the balancer cannot read, as they are encrypted or HTTP/2: ` +
      'its option affinity finds no session in them, so that the address decides. End TLS in a proxy in front, or leave affinity out.',
  )
}

/** @param {string} path */
function pathWithoutAddresses(path) {
  warn(
    'STICKY_ONE_ADDRESS',
    `The balancer listens at ${path}, where clients have no addresses: all are one client, which one worker serves. Use the ` +
      'option behindProxy or proxyProtocol, as the proxy in front knows the clients.',
  )
}

/** @param {number} count of connections, all that came */
function noProxyHeader(count) {
  warn(
    'STICKY_NO_PROXY_HEADER',
    `All of the first ${count} connections were closed, as none began with the PROXY header that the option proxyProtocol ` +
      'requires, or none came from a proxy that trustProxy names. Have the proxy send that header, or leave proxyProtocol out.',
  )
}

/**
 * In the primary, with `behindProxy` or `proxyProtocol`.
 * @param {number} count of connections
 * @param {number} slot
 * @param {number} slots
 * @param {string | undefined} header that is to name clients; if none, the PROXY header is
 */
function oneClient(count, slot, slots, header) {
  const remedy =
    header === undefined
      ? 'Check that the PROXY header of the proxy names the client: with LOCAL or UNKNOWN it names nobody.'
      : `Check that the proxy sets the header "${header}" (the option cipHeader), that the balancer can read it (it cannot in ` +
        'TLS and HTTP/2), and that the option trustProxy, if given, names all proxies and no clients.'
  warn(
    'STICKY_ONE_ADDRESS',
    `${count} connections went to slot ${slot}, one of ${slots}, and none to any other, as if all were of one client. ${remedy}`,
  )
}

/**
 * @param {string} option
 * @param {string} needed the options that it would need, in words
 */
function unusedOption(option, needed) {
  warn('STICKY_UNUSED_OPTION', `The option "${option}" has no effect without ${needed}.`)
}

module.exports = {
  activeWorkersFailed,
  noBalancer,
  noProcess,
  noProxyHeader,
  noWorkers,
  notListening,
  notOffered,
  oneAddress,
  oneClient,
  otherVersion,
  outOfDescriptors,
  pathWithoutAddresses,
  refused,
  sessionsHidden,
  unknownOption,
  unusedOption,
}
