'use strict'

// What the steps of a history do. Each resolves when it is over.

const { annoy } = require('./load/hostile')
const { fdCount, limitTo, signal, wait } = require('./process')
const fs = require('node:fs')

/**
 * @typedef {InstanceType<typeof import('./world').World>} World
 * @typedef {Required<import('./history').Step>} Step
 */

/** @type {{ [kind in import('./history').Kind]: (world: World, step: Step) => Promise<unknown> | void }} */
const STEPS = {
  kill(world, { pick }) {
    const pid = world.worker(pick)
    if (pid !== undefined) world.kill(pid)
  },

  async stop(world, { pick, ms }) {
    const pid = world.worker(pick)
    if (pid !== undefined) await world.during({ kind: 'stop', pid }, () => world.stop(pid, ms))
  },

  replace: (world, { pick }) => world.ask('replace', pick % Math.max(1, world.primary.table.length)),
  reload: (world) => world.ask('reload'),
  resize: (world, { count }) => world.ask('resize', count),

  empty: (world, { pick, ms }) => world.ask('empty', pick % Math.max(1, world.primary.table.length), ms),

  async block(world, { ms }) {
    const { pid } = world.primary
    await world.during({ kind: 'block', pid }, () => world.ask('block', ms))
  },

  burst: (world, { count }) => world.load.burst(count),

  hostile: (world, { count }) =>
    world.during({ kind: 'hostile', count }, () => annoy(world.port, count, world.random.fork())),

  upgrade: (world, { count }) => world.upgrade(count),
  orphan: (world, { count }) => world.orphan(count),
  'abort-upgrade': (world, { ms }) => world.abortUpgrade(ms),

  clock: (world, { ms }) => world.ask('setClock', ms),

  async 'worker-descriptors'(world, { pick, ms, count }) {
    const pid = world.worker(pick)
    if (pid === undefined) return
    await world.during({ kind: 'worker-descriptors', pid }, () => limited(pid, count, ms))
  },

  async 'primary-descriptors'(world, { ms, count }) {
    const { pid } = world.primary
    await world.during({ kind: 'primary-descriptors', pid }, () => limited(pid, count, ms))
  },
}

/** @type {Set<number>} processes that are limited, so that no limit is taken for the usual one */
const limiting = new Set()

/**
 * Leaves a process so many descriptors more than it has, for a while.
 * @param {number} pid
 * @param {number} more
 * @param {number} ms
 */
async function limited(pid, more, ms) {
  if (limiting.has(pid)) return
  limiting.add(pid)
  try {
    const [, usual] = /^Max open files\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? []
    await limitTo(pid, fdCount(pid) + more)
    await wait(ms)
    await limitTo(pid, Number(usual))
  } catch (error) {
    // It may be gone by now.
    if (signal(pid, /** @type {any} */ (0))) throw error
  } finally {
    limiting.delete(pid)
  }
}

module.exports = { STEPS }
