'use strict'

// Who takes part.

const fs = require('node:fs')

/**
 * @typedef {object} Contender
 * @property {string} name
 * @property {string} program of this folder
 * @property {string[]} [args]
 * @property {string} sticky by what a client is known again, or 'no'
 * @property {boolean} [own] is of this repository
 * @property {boolean} [behindProxy] takes clients from their requests: the header X-Forwarded-For, or a cookie
 * @property {boolean} [proxies] holds two connections for each of a client
 * @property {string} [remark]
 */

/** @type {Contender[]} */
const contenders = [
  {
    name: 'ours',
    program: 'balancer.js',
    args: ['../..'],
    sticky: 'address',
    own: true,
    remark: 'the kernel steers',
  },
  {
    name: 'handover',
    program: 'balancer.js',
    args: ['../..', '--steering', 'handover'],
    sticky: 'address',
    own: true,
    remark: 'ours where the primary accepts and hands over',
  },
  {
    name: 'original',
    program: 'balancer.js',
    args: ['original'],
    sticky: 'address',
    remark: 'sticky-listen 3.3.0, JavaScript',
  },
  { name: 'bare', program: 'node-cluster.js', args: ['none'], sticky: 'no', remark: 'node:cluster, SCHED_NONE' },
  {
    name: 'reuseport',
    program: 'node-cluster.js',
    args: ['reuseport'],
    sticky: 'no',
    remark: 'every worker listens by itself with SO_REUSEPORT; the kernel deals out by address and port',
  },
  {
    name: 'round-robin',
    program: 'node-cluster.js',
    args: ['rr'],
    sticky: 'no',
    remark: 'node:cluster, SCHED_RR (its default)',
  },
  { name: 'sticky-session', program: 'sticky-session.js', sticky: 'address' },
  { name: 'sticky-cluster', program: 'sticky-cluster.js', sticky: 'address' },
  {
    name: '@socket.io/sticky',
    program: 'socket-io-sticky.js',
    sticky: 'socket.io session',
    remark: 'its clients move here, as plain requests have no session; it closes after each response',
  },
  {
    name: 'nginx',
    program: 'proxy.js',
    args: ['nginx'],
    sticky: 'address',
    proxies: true,
    remark: 'ip_hash, 2 worker processes, upstream keep-alive, 2 Node servers',
  },
  {
    name: 'haproxy',
    program: 'proxy.js',
    args: ['haproxy'],
    sticky: 'address',
    proxies: true,
    remark: 'balance source, 2 threads, 2 Node servers',
  },
  {
    name: 'ours-behind-proxy',
    program: 'balancer.js',
    args: ['../..', '--behindProxy'],
    sticky: 'X-Forwarded-For',
    own: true,
    behindProxy: true,
  },
  {
    name: 'ours-sessions',
    program: 'balancer.js',
    args: ['../..', '--sessions'],
    sticky: 'cookie',
    own: true,
    behindProxy: true,
    remark: 'clients keep the cookie of the option affinity',
  },
  {
    name: 'original-behind-proxy',
    program: 'balancer.js',
    args: ['original', '--behindProxy'],
    sticky: 'X-Forwarded-For',
    behindProxy: true,
  },
]

/**
 * This package as it is built in another folder.
 * @param {string} dir
 * @returns {Contender}
 */
function another(dir) {
  return { name: 'other', program: 'balancer.js', args: [dir], sticky: 'address', remark: `of ${dir}` }
}

/**
 * Why a contender cannot take part here.
 * @param {Contender} contender
 */
function missing({ proxies, name }) {
  if (name === 'reuseport' && !reusePort()) return 'reuseport needs Node 22.12 or 23.1'
  if (!proxies) return undefined
  const found = (process.env.PATH ?? '').split(':').some((dir) => fs.existsSync(`${dir}/${name}`))
  return found ? undefined : `${name} is not installed`
}

/** Whether this Node has the option. */
function reusePort() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  return major === 22 ? minor >= 12 : major === 23 ? minor >= 1 : major > 23
}

module.exports = { another, contenders, missing }
