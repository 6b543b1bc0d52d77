// Compiled only, by `npm run check:js`: what users may write, and what they may not.

import { type ChildProcess, fork } from 'node:child_process'
import cluster from 'node:cluster'
import http from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import sticky, { type BalancerOptions, type BalancerStats, createBalancer, listen } from '../..'

const pool: ChildProcess[] = [fork('worker.js')]
const options: BalancerOptions = {
  activeWorkers: () => pool,
  retryDelay: 150,
  maxRetries: Number.POSITIVE_INFINITY,
  seed: new Uint8Array(1),
  ipv6Prefix: 64,
  maxPending: 10,
  name: 'web',
}

const balancer: net.Server = createBalancer(options).listen(8081, () => {})
sticky.createBalancer().listen({ path: '/x', readableAll: true })
createBalancer(() => Object.values(cluster.workers ?? {}), { maxRetries: 5, retryDelay: 100 })
createBalancer(() => ({ length: 2, 1: pool[0] }))
const stats: BalancerStats = createBalancer().stats()
const pid: number | null = stats.slots[0].pid
const milliseconds: number[] = stats.waits.bounds

createBalancer()
  .on('slot', ({ slot, pid, up, reason }) => {
    const known: 'listening' | 'replaced' | 'removed' | 'closed' | 'fault' | 'broken' = reason
    console.log(slot.toFixed(), pid.toFixed(), up satisfies boolean, known)
  })
  .once('refuse', ({ status, count }) => console.log(status satisfies 502 | 503 | null, count.toFixed()))
  .on('worker', ({ up }) => up satisfies boolean)
  .on('listening', () => {})
  .on('error', (error) => console.log(error.message))
const client: { slot: number; pid: number | null } | null = createBalancer().slotOf('192.0.2.1')

createBalancer({ affinity: 'address', takeOver: '/run/app/balancer.sock' })
const drains: boolean = createBalancer().draining
createBalancer().drain(false)
createBalancer({ affinity: { query: 'sid', fallback: 'address' } })
createBalancer({ affinity: { cookie: { name: 'sticky', sameSite: 'none', maxAge: 60 } } })
const affinity: sticky.Affinity = { cookie: 'sticky', fallback: 'room' }
createBalancer({ affinity })
const request = new http.IncomingMessage(new net.Socket())
const token: string | undefined = sticky.token(request) ?? sticky.token(request.socket)
const id: string = sticky.generateId(request)
const proxy: sticky.ProxyAddress | undefined = sticky.proxyAddress(request) ?? sticky.proxyAddress(request.socket)

const listens: true = listen(net.createServer())
listen(http2.createSecureServer(), { name: 'admin' })
new sticky.Balancer({ seed: 'x' }) satisfies net.Server

// @ts-expect-error activeWorkers is a function
createBalancer({ activeWorkers: pool })
// @ts-expect-error given twice
createBalancer(() => pool, { activeWorkers: () => pool })
// @ts-expect-error no such field
createBalancer().on('slot', ({ worker }) => worker)
// @ts-expect-error no such fallback
createBalancer({ affinity: { query: 'sid', fallback: 'hash' } })
// @ts-expect-error neither query nor cookie
createBalancer({ affinity: {} })
// @ts-expect-error neither query nor cookie
createBalancer({ affinity: { fallback: 'address' } })
// @ts-expect-error a request or a socket
sticky.token('sid')
// @ts-expect-error a request or a socket
sticky.proxyAddress(net.createServer())
// @ts-expect-error an address
createBalancer().slotOf(7)
// @ts-expect-error unknown option
createBalancer({ strategy: 'x' })
// @ts-expect-error a number
createBalancer({ retryDelay: '150' })
// @ts-expect-error a server
listen({})

export { balancer, client, drains, id, listens, milliseconds, pid, proxy, token }
