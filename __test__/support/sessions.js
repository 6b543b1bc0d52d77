'use strict'

// A balancer that tells sessions apart, with workers whose slots the test has in its hands.

const { until } = require('./client')
const { PATIENT, start } = require('./process')

/** A balancer with these options, and all its slots served. */
async function sessions(t, { workers = 4, options, env, ...rest }) {
  const primary = start(t, 'slots-primary.js', {
    args: [{ workers, options: { ...PATIENT, ...options }, ...rest }],
    env,
  })
  const { port } = await primary.call('listen')
  await served(primary, workers)
  return { primary, port }
}

/** The process of each slot, once all have one. */
function served(primary, count) {
  return until(async () => {
    const pids = (await primary.call('stats')).slots.map(({ pid }) => pid)
    return pids.length === count && pids.every(Boolean) && pids
  })
}

module.exports = { served, sessions }
