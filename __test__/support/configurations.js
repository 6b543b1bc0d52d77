'use strict'

// Blocks of the documentation that are no JavaScript: what of them can be checked on a machine without systemd, Docker,
// Kubernetes or the proxies' networks is checked.

const assert = require('node:assert/strict')
const { execFileSync, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const yaml = require('js-yaml')
const { ROOT } = require('./markdown')
const { directory } = require('./places')
const { has } = require('./tools')

const manifest = require('../../package.json')

// Programs that pages name and no test runs.
const NOT_RUN = ['aws', 'docker', 'kill', 'perf', 'strace']

/**
 * Checks a block.
 * @param {import('node:test').TestContext} t
 * @param {import('./markdown').Block} block
 */
function checkConfiguration(t, block) {
  const { language, directive, text } = block
  if (language === 'bash') return checkShell(text)
  if (language === 'yaml') return checkManifest(text)
  if (language === 'dockerfile') return checkDockerfile(block)
  if (language === 'ini' && directive?.kind === 'unit') return checkUnit(t, directive.value, text)
  if (directive?.kind === 'lines of') return checkLines(directive.value, text)
  if (language === 'nginx' && directive?.value === 'http') return checkNginx(t, text)
  assert.fail(`no test knows a block of ${language || 'no language'} with ${JSON.stringify(directive)}`)
}

/** Every command is one of this repository's, or of a program that is run elsewhere or named in NOT_RUN. */
function checkShell(text) {
  const commands = text
    .replaceAll('\\\n', ' ')
    .split(/\n|&&|\|/)
    .map((line) => line.replace(/\s#.*|^#.*/, '').trim())
    .filter(Boolean)
  for (const command of commands) {
    const [program, ...args] = command.replace(/^(?:[A-Z_]+=\S+ )+/, '').split(/\s+/)
    if (program === 'npm') {
      const [verb, name] = args
      if (verb === 'install') assert.equal(path.basename(name).replace(/@.*|-\*\.tgz$/, ''), manifest.name, command)
      else assert.ok(manifest.scripts[verb === 'run' ? name : verb], `package.json has no script for: ${command}`)
    } else if (program === 'node') {
      const file = args.find((arg) => arg.endsWith('.js'))
      assert.ok(fs.existsSync(path.join(ROOT, file)), `there is no ${file}`)
    } else if (program === 'for') {
      execFileSync('bash', ['-n', '-c', text])
    } else {
      assert.ok(NOT_RUN.includes(program), `no test knows the program of: ${command}`)
    }
  }
}

/** Tests run the whole file, of examples/proxies or another folder; what is shown of it must be in there. */
function checkLines(file, text) {
  const lines = (of) => of.split('\n').map((line) => line.trim().replace(/\s+/g, ' '))
  const there = lines(fs.readFileSync(path.join(ROOT, 'examples', file.includes('/') ? '' : 'proxies', file), 'utf8'))
  for (const line of lines(text).filter((line) => line && line !== '…')) {
    assert.ok(there.includes(line), `${file} does not say: ${line}`)
  }
}

/** As nginx itself sees it. */
function checkNginx(t, text) {
  if (!has(t, 'nginx')) return
  const folder = directory(t)
  const config = path.join(folder, 'nginx.conf')
  fs.writeFileSync(config, `events {}\nhttp { access_log off;\n${text}\nserver { listen 127.0.0.1:8081; }\n}\n`)
  execFileSync('nginx', ['-t', '-c', config, '-p', folder, '-e', 'stderr', '-g', `pid ${folder}/pid;`], {
    stdio: 'pipe',
  })
}

/** As systemd sees it; the folder and the path of Node are this machine's. */
function checkUnit(t, name, text) {
  if (!has(t, 'systemd-analyze')) return
  const folder = directory(t)
  fs.writeFileSync(path.join(folder, name), text.replace('/usr/bin/node', process.execPath))
  const [base, kind] = name.split('.')
  // A socket needs the service that it starts.
  if (kind === 'socket') fs.writeFileSync(path.join(folder, `${base}.service`), '[Service]\nExecStart=/bin/true\n')
  const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', path.join(folder, name)], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  // What it says of the machine's own units is not meant.
  assert.deepEqual(
    stderr.split('\n').filter((line) => line.includes(folder)),
    [],
  )
}

const INSTRUCTIONS = ['FROM', 'WORKDIR', 'ENV', 'COPY', 'RUN', 'USER', 'EXPOSE', 'CMD']

/** Every instruction exists, what is started is copied before, and the Node is one that the package supports. */
function checkDockerfile({ text }) {
  const lines = text.trim().split('\n')
  const copied = []
  for (const line of lines) {
    const [instruction, ...words] = line.split(' ')
    assert.ok(INSTRUCTIONS.includes(instruction), line)
    if (instruction === 'COPY') copied.push(...words.slice(0, -1))
    if (instruction === 'RUN') assert.equal(words.join(' '), 'npm ci --omit=dev')
    if (instruction === 'CMD') {
      const [program, file] = JSON.parse(words.join(' '))
      assert.equal(program, 'node')
      assert.ok(copied.includes(file), `${file} is not copied`)
    }
  }
  const major = Number(lines[0].match(/^FROM node:(\d+)/)[1])
  assert.ok(major >= Number(manifest.engines.node.match(/\d+/)[0]))
}

/** It is YAML, and its parts refer to each other. */
function checkManifest(text) {
  const parts = text.split(/^---$/m).map((part) => yaml.load(part))
  const of = (kind) => parts.find((part) => part.kind === kind)
  const ingress = of('Ingress')
  if (ingress) checkIngress(ingress, of('Service'))
  if (ingress && !of('Deployment')) return
  const { template, selector } = of('Deployment').spec
  const [container] = template.spec.containers
  const service = of('Service').spec
  assert.deepEqual(template.metadata.labels, selector.matchLabels)
  assert.deepEqual(service.selector, selector.matchLabels)
  const ports = container.ports.map(({ containerPort }) => containerPort)
  assert.ok(ports.includes(service.ports[0].targetPort))
  const { tcpSocket, httpGet } = container.readinessProbe
  assert.ok(ports.includes((tcpSocket ?? httpGet).port))
  for (const { value, valueFrom } of container.env) assert.ok(typeof value === 'string' || valueFrom)
}

/** Its annotations are text, and it leads to the service that is shown beside it, if one is. */
function checkIngress({ metadata, spec }, service) {
  for (const [name, value] of Object.entries(metadata.annotations)) assert.equal(typeof value, 'string', name)
  const [{ backend }] = spec.rules[0].http.paths
  if (!service) return
  assert.equal(backend.service.name, service.metadata.name)
  assert.equal(backend.service.port.number, service.spec.ports[0].port)
}

module.exports = { checkConfiguration }
