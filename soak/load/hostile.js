'use strict'

// Clients without manners. Nothing is owed to them, and nobody else may notice them.

const net = require('node:net')
const { wait } = require('../process')

const OVERSIZE = 40_000

// How long those stay who say nothing, or never finish.
const LINGERS = [100, 4000]

/** @type {((socket: net.Socket, random: InstanceType<typeof import('../random').Random>) => Promise<void> | void)[]} */
const WAYS = [
  // Gone at once.
  (socket) => void socket.resetAndDestroy(),
  (socket) => void socket.end(),
  // Garbage, and what is none quite.
  (socket, random) => {
    socket.end(Buffer.from(Array.from({ length: random.integer(1, 2000) }, () => random.integer(0, 255))))
  },
  (socket) => void socket.end('PROXY TCP4 1.2.3.4 banana 1 99999\r\nGET / HTTP/1.1\r\n\r\n'),
  (socket) => void socket.end('\r\n\r\n\0PROXY'),
  // A head that is too long.
  (socket) => void socket.write(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(OVERSIZE)}\r\n\r\n`),
  // A session that was never given.
  (socket) =>
    void socket.write(
      'GET /hostile?sid=AAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: x\r\nCookie: sticky=AAAAAAAAAAAAAAAA\r\n\r\n',
    ),
  // Gone with its request, or in the middle of it.
  (socket) => {
    socket.write('GET /hostile HTTP/1.1\r\nHost: x\r\n\r\n')
    socket.resetAndDestroy()
  },
  (socket) => {
    socket.write('GET /hostile HTTP/1.1\r\nHo')
    socket.resetAndDestroy()
  },
  (socket) => void socket.end('GET /hostile HTTP/1.1\r\nHost: x\r\n\r\n'),
  // Silent, or never finished.
  () => {},
  async (socket, random) => {
    for (const letter of 'GET /hostile HTTP') {
      socket.write(letter)
      await wait(random.integer(10, 300))
    }
  },
  // Sends and does not stop.
  (socket) =>
    void socket.write(`POST /hostile HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n${'x'.repeat(OVERSIZE)}`),
  // Reads nothing.
  (socket) => {
    socket.pause()
    socket.write('GET /hostile HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(100))
  },
]

/**
 * Resolves when all of them have left.
 * @param {number} port
 * @param {number} count
 * @param {InstanceType<typeof import('../random').Random>} random
 */
async function annoy(port, count, random) {
  const one = async () => {
    const socket = net.connect({ host: '127.0.0.1', port, localAddress: `127.2.0.${random.integer(1, 20)}` })
    socket.on('error', () => {})
    socket.on('data', () => {})
    const established = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('close', () => resolve(false))
    })
    if (!established) return
    await random.one(WAYS)(socket, random)
    await wait(random.integer(LINGERS[0], LINGERS[1]))
    socket.destroy()
  }
  await Promise.all(Array.from({ length: count }, one))
}

module.exports = { annoy }
