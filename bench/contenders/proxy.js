'use strict'

// nginx or HAProxy in front of plain Node servers, each with a configuration file of a few lines. Argument:
// which.

const { fork, spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { openFileLimit } = require('../lib/machine')
const { announce } = require('./announce')
const { PORT, WORKERS } = require('./environment')

// As many as the contenders of Node have workers.
const THREADS = WORKERS

const PROXIES = {
  nginx: {
    command: 'nginx',
    /** @type {(file: string) => string[]} */
    args: (file) => ['-c', file],
    config: nginx,
  },
  haproxy: {
    command: 'haproxy',
    /** @type {(file: string) => string[]} */
    args: (file) => ['-db', '-f', file],
    config: haproxy,
  },
}

/**
 * @param {string} dir
 * @param {number[]} ports
 */
function nginx(dir, ports) {
  return `
daemon off;
worker_processes ${THREADS};
pid ${dir}/nginx.pid;
error_log stderr error;
events { worker_connections ${openFileLimit() - 100}; }
http {
  access_log off;
  keepalive_requests 1000000;
  proxy_max_temp_file_size 0;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((use) => `${use}_temp_path ${dir}/${use};`).join(' ')}
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream workers {
    ip_hash;
    ${ports.map((port) => `server 127.0.0.1:${port};`).join(' ')}
    keepalive 64;
  }
  server {
    listen 127.0.0.1:${PORT} backlog=4096;
    location / {
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
    }
  }
}
`
}

/**
 * @param {string} _dir
 * @param {number[]} ports
 */
function haproxy(_dir, ports) {
  return `
global
  nbthread ${THREADS}
  maxconn ${Math.floor(openFileLimit() / 2) - 100}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind 127.0.0.1:${PORT} backlog 4096
  default_backend workers
backend workers
  balance source
  ${ports.map((port, n) => `server w${n} 127.0.0.1:${port}`).join('\n  ')}
`
}

async function run() {
  const { command, args, config } = PROXIES[/** @type {keyof typeof PROXIES} */ (process.argv[2])]
  const workers = Array.from({ length: WORKERS }, () =>
    fork(path.join(__dirname, 'plain-worker.js'), ['127.0.0.1'], { env: { ...process.env, BENCH_PORT: '0' } }),
  )
  const ports = await Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0].port))

  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-bench-'))
  const file = path.join(dir, `${command}.conf`)
  fs.writeFileSync(file, config(dir, ports))
  const proxy = spawn(command, args(file), { stdio: ['ignore', 'ignore', 'inherit'] })
  process.on('exit', () => proxy.kill())
  process.on('SIGTERM', () => proxy.kill())
  proxy.on('exit', () => {
    for (const worker of workers) worker.kill()
    fs.rmSync(dir, { recursive: true, force: true })
    process.exit()
  })
  await once(proxy, 'spawn')
  announce(
    Number(proxy.pid),
    workers.map((worker) => Number(worker.pid)),
  )
}

run()
