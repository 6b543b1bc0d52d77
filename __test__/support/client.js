'use strict'

// Clients, each from the address it is told to have.

const http = require('node:http')
const net = require('node:net')

/** The nth loopback address, counted from 127.0.0.2. */
function loopback(n) {
  const host = n + 2
  return `127.${(host >> 16) & 255}.${(host >> 8) & 255}.${host & 255}`
}

/**
 * One request on a connection of its own.
 * @param {number} port
 * @param {http.RequestOptions & { body?: string | Buffer }} [options]
 * @returns {Promise<{ status: number, body: string, headers: http.IncomingHttpHeaders }>}
 */
function request(port, { body, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const sent = http.request({ host: '127.0.0.1', port, agent: false, ...options }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk) => {
        text += chunk
      })
      response.on('end', () => resolve({ status: response.statusCode, body: text, headers: response.headers }))
      response.on('error', reject)
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

/**
 * A bare connection; resolves once it is established.
 * @param {number} port
 * @param {string} [localAddress]
 * @returns {Promise<net.Socket>}
 */
function connect(port, localAddress) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: '127.0.0.1', port, localAddress })
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
    socket.once('error', reject)
  })
}

/** All that a socket still says, as text; a reset rejects. */
async function readAll(socket) {
  let text = ''
  for await (const chunk of socket) text += chunk
  return text
}

/**
 * Runs `work(n)` for n below `total`, at most `width` at a time.
 * @param {number} total
 * @param {number} width
 * @param {(n: number) => Promise<void>} work
 */
async function parallel(total, width, work) {
  let next = 0
  const run = async () => {
    while (next < total) await work(next++)
  }
  await Promise.all(Array.from({ length: width }, run))
}

/**
 * Waits for a condition that no event announces (another process's counters, /proc).
 * @template T
 * @param {() => T | Promise<T>} condition
 * @returns {Promise<NonNullable<T>>} the first truthy value
 */
async function until(condition) {
  for (;;) {
    const value = await condition()
    if (value) return value
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

module.exports = { connect, loopback, parallel, readAll, request, until }
