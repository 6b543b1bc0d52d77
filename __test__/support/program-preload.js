'use strict'

// In every process of a program of the documentation: servers listen on loopback, at a port of their own, and at paths in
// the program's folder, whatever the page says; and the primary tells, on descriptor 4, where, and who serves which slot.

const cluster = require('node:cluster')
const { subscribe } = require('node:diagnostics_channel')
const fs = require('node:fs')
const net = require('node:net')
const path = require('node:path')

const REPORT = 4

const report = (what) => fs.writeSync(REPORT, `${JSON.stringify(what)}\n`)

subscribe('sticky-listen:slot', ({ balancer }) => {
  report({ name: JSON.stringify(balancer.address()), slots: balancer.stats().slots.map(({ pid }) => pid) })
})

// Of @socket.io/sticky: the primary learns which worker has a session, after its client may have learned of the session.
cluster.on('message', (_worker, message) => {
  if (message?.type === 'sticky:connection') report({ bound: message.data })
})

const { listen } = net.Server.prototype

net.Server.prototype.listen = function (...args) {
  const [first, ...rest] = args
  if (!process.send) {
    this.once('listening', () => report({ address: this.address() }))
  }
  if (typeof first === 'number' || /^\d+$/.test(first)) {
    if (typeof rest[0] === 'string') rest.shift()
    return listen.call(this, { port: 0, host: '127.0.0.1' }, ...rest)
  }
  if (typeof first === 'string') return listen.call(this, path.join(process.cwd(), path.basename(first)), ...rest)
  if (first?.port !== undefined) return listen.call(this, { ...first, port: 0, host: '127.0.0.1' }, ...rest)
  return listen.apply(this, args)
}
