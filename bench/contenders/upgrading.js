'use strict'

// This package in a program that takes over from itself, and ends when another has taken over. Arguments: the path, and flags
// with the names of options.

const { parseArgs } = require('node:util')
const sticky = require('../..')
const { PORT } = require('./environment')
const { announce } = require('./announce')
const { startWorkers } = require('./workers')

const {
  positionals: [takeOver],
  values,
} = parseArgs({ allowPositionals: true, options: { steering: { type: 'string' } } })
const workers = startWorkers('sticky-worker.js', ['../..'])
/** @type {import('../..').BalancerOptions} */
const options = { takeOver, activeWorkers: () => workers, .../** @type {object} */ (values) }
const balancer = sticky.createBalancer(options)
balancer.listen(PORT)
balancer.once('close', () => {
  for (const worker of workers) worker.disconnect()
  process.stdin.destroy()
})

const serving = () => {
  const { slots } = balancer.stats()
  return slots.length > 0 && slots.every(({ pid }) => pid)
}
const waiting = setInterval(() => {
  if (!serving()) return
  clearInterval(waiting)
  announce(process.pid, [])
}, 5)
