'use strict'

// A cluster that tells Prometheus what it does: the primary process serves the balancer's metrics, on a port of its own.
//
//   node examples/metrics/cluster.js      PORT, METRICS_PORT: other ports than 8081 and 9464
//   curl http://localhost:9464/metrics

const cluster = require('node:cluster')
const http = require('node:http')
const { Registry } = require('prom-client')
const sticky = require('../..') // require('sticky-listen') in a program of your own
const watch = require('./metrics')

if (cluster.isPrimary) primary()
else worker()

function primary() {
  for (let n = 0; n < 4; n++) cluster.fork()
  cluster.on('exit', () => cluster.fork())
  // A message to a worker that is just dying fails; its end is noticed anyway.
  cluster.on('fork', (forked) => forked.on('error', () => {}))

  const balancer = sticky.createBalancer()
  const register = new Registry()
  watch(balancer, register)
  balancer.listen(Number(process.env.PORT || 8081), () => {
    console.log(`The workers answer at http://localhost:${balancer.address().port}`)
  })

  const metrics = http.createServer((request, response) => {
    if (request.url !== '/metrics') return response.writeHead(404).end()
    register.metrics().then(
      (text) => response.writeHead(200, { 'content-type': register.contentType }).end(text),
      (error) => response.writeHead(500).end(`${error}\n`),
    )
  })
  // Not for everybody: what scrapes it from another machine needs another address here, and a firewall.
  metrics.listen(Number(process.env.METRICS_PORT || 9464), '127.0.0.1', () => {
    console.log(`The metrics are at http://localhost:${metrics.address().port}/metrics`)
  })
}

function worker() {
  sticky.listen(http.createServer((_request, response) => response.end(`worker ${process.pid}\n`)))
}
