'use strict'

// The demo's worker: serves the page and, over socket.io, the live picture that the primary sends.
// Nothing here knows of ports or of other workers; sticky.listen() brings the connections.

const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { Server } = require('socket.io')
const sticky = require('../..') // require('sticky-listen') in a program of your own

// By recluster: the slot that this worker serves.
const slot = Number(process.env.WORKER_ID)

// Read once, so that an edited page appears with the next reload.
const pages = new Map([
  ['/', page('index.html', 'text/html; charset=utf-8')],
  ['/style.css', page('style.css', 'text/css; charset=utf-8')],
  ['/app.js', page('app.js', 'text/javascript; charset=utf-8')],
  ['/plots.js', page('plots.js', 'text/javascript; charset=utf-8')],
  ['/uplot.js', page(require.resolve('uplot/dist/uPlot.iife.min.js'), 'text/javascript; charset=utf-8')],
  ['/uplot.css', page(require.resolve('uplot/dist/uPlot.min.css'), 'text/css; charset=utf-8')],
])

/**
 * @param {string} file absolute, or one of public
 * @param {string} type
 */
function page(file, type) {
  return { body: fs.readFileSync(path.resolve(__dirname, 'public', file)), type }
}

const server = http.createServer((request, response) => {
  const found = pages.get(request.url.split('?')[0])
  if (found) response.writeHead(200, { 'content-type': found.type, 'cache-control': 'no-cache' }).end(found.body)
  else response.writeHead(404, { 'content-type': 'text/plain' }).end('There is nothing here.\n')
})

// Serves its own client as well, at /socket.io/socket.io.min.js.
const io = new Server(server)

// With keep-alive a browser would have one connection, on which staying with a worker is no feat. Here
// every request has to find its way again. After socket.io, which moves the listeners that it finds.
server.prependListener('request', (_request, response) => response.setHeader('connection', 'close'))

/** How many connections came from each client. */
const connections = new Map()

server.on('connection', ({ remoteAddress }) => {
  connections.set(remoteAddress, (connections.get(remoteAddress) ?? 0) + 1)
})

io.on('connection', (socket) => {
  // IPv4 clients of a listener for both families look like this.
  const address = socket.handshake.address.replace(/^::ffff:/, '')
  socket.emit('welcome', { pid: process.pid, slot, address })
  tell({ cmd: 'watch' })
  socket.on('reload', () => tell({ cmd: 'reload' }))
  socket.on('kill', () => tell({ cmd: 'kill' }))
  socket.on('disconnect', () => {
    if (io.of('/').sockets.size === 0) tell({ cmd: 'unwatch' })
  })
})

process.on('message', (message) => {
  if (message?.cmd === 'picture') {
    for (const socket of io.of('/').sockets.values()) {
      socket.emit('picture', { ...message.picture, connections: connections.get(socket.handshake.address) })
    }
  } else if (message?.cmd === 'disconnect') {
    retire()
  }
})

// How recluster, and the cluster module in general, tell a worker to go.
process.once('disconnect', retire)

/**
 * Closes the server and all sockets. Browsers notice, connect again and reach the successor; an open
 * WebSocket would otherwise hold this worker, and its browser, until the manager kills it.
 */
function retire() {
  if (server.listening) io.close()
}

// Ctrl+C in a terminal reaches all processes at once, but ending the workers is up to the primary.
process.on('SIGINT', () => {})

function tell(message) {
  if (process.connected) process.send(message, () => {})
}

sticky.listen(server)
process.send({ cmd: 'ready' })
