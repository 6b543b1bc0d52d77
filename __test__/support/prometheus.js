'use strict'

// A real Prometheus, and its tool.

const assert = require('node:assert/strict')
const { execFile, spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const path = require('node:path')
const { request, until } = require('./client')
const { directory, freePort } = require('./places')

/**
 * Runs promtool, which must find nothing wrong.
 * @param {string[]} args
 * @param {string} [input]
 * @returns {Promise<string>} what it says
 */
function promtool(args, input = '') {
  return new Promise((resolve, reject) => {
    const child = execFile('promtool', args, (error, stdout, stderr) => {
      if (error) reject(new Error(`promtool ${args.join(' ')}: ${stdout}${stderr}`))
      else resolve(`${stdout}${stderr}`)
    })
    child.stdin?.end(input)
  })
}

/**
 * Starts a Prometheus that scrapes `/metrics` of a port five times a second.
 * @param {import('node:test').TestContext} t
 * @param {number} target
 * @returns {Promise<(expression: string) => Promise<{ metric: { [label: string]: string }, value: number }[]>>} asks it
 */
async function startPrometheus(t, target) {
  const folder = directory(t)
  const config = path.join(folder, 'prometheus.yml')
  // JSON is YAML.
  const scraping = { scrape_interval: '200ms', scrape_timeout: '200ms' }
  const job = { job_name: 'sticky-listen', static_configs: [{ targets: [`127.0.0.1:${target}`] }] }
  fs.writeFileSync(config, JSON.stringify({ global: scraping, scrape_configs: [job] }))
  const port = await freePort('127.0.0.1')
  const args = [`--config.file=${config}`, `--storage.tsdb.path=${folder}`, `--web.listen-address=127.0.0.1:${port}`]
  const child = spawn('prometheus', [...args, '--log.level=warn'], { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  const exited = once(child, 'exit')
  t.after(async () => {
    child.kill('SIGKILL')
    await exited
  })
  const ask = async (expression) => {
    const { body } = await request(port, { path: `/api/v1/query?query=${encodeURIComponent(expression)}` })
    const { status, data, error } = JSON.parse(body)
    assert.equal(status, 'success', `${expression}: ${error}`)
    return data.result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }))
  }
  await until(async () => {
    assert.equal(child.exitCode, null, output)
    const answer = await request(port, { path: '/-/ready' }).catch(() => undefined)
    return answer?.status === 200
  })
  await until(async () => (await ask('up'))[0]?.value === 1)
  return ask
}

module.exports = { promtool, startPrometheus }
