'use strict'

// @socket.io/sticky as its README says, but round-robin: its default counts socket.io sessions, and with
// none it sends every plain request to one worker.

const cluster = require('node:cluster')
const http = require('node:http')
const { setupMaster, setupWorker } = require('@socket.io/sticky')
const { Server } = require('socket.io')
const { announceCluster } = require('./announce')
const { PORT, WORKERS } = require('./environment')
const { createServer } = require('./server')

if (cluster.isPrimary) {
  const server = http.createServer()
  setupMaster(server, { loadBalancingMethod: 'round-robin' })
  server.listen(PORT)
  cluster.setupPrimary({ serialization: 'advanced' })
  announceCluster()
  for (let n = 0; n < WORKERS; n++) cluster.fork()
} else {
  // The WebSockets of the bench are none of socket.io's, which would end them after a second.
  setupWorker(new Server(createServer(), { destroyUpgrade: false }))
}
