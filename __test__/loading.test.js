'use strict'

// Which binary is loaded, and what is said where none can be.

const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')

const { PLATFORMS, loadAddon } = require('../lib/addon')
const { name } = require('../package.json')
const { directory } = require('./support/places')

const ROOT = path.join(__dirname, '..')

/**
 * A system on which only some packages are installed.
 * @param {object} [of]
 * @param {Record<string, { version?: string, addon?: () => any }>} [of.packages]
 */
function system({ packages = {}, platform = 'linux', arch = 'x64', libc = 'gnu', node = '24.1.0' } = {}) {
  return {
    root: '/nowhere',
    version: '1.2.3',
    engines: '>=20',
    node,
    platform,
    arch,
    libc: () => libc,
    require(id) {
      const [package_, file] = id.split('/')
      const found = packages[package_]
      if (!found) throw Object.assign(new Error(`Cannot find module '${id}'`), { code: 'MODULE_NOT_FOUND' })
      return file ? { version: found.version ?? '1.2.3' } : found.addon()
    },
  }
}

/** The error that loading there throws. */
function failure(of) {
  try {
    loadAddon(system(of))
  } catch (error) {
    assert.equal(error.code, 'ERR_STICKY_NO_BINARY')
    return error
  }
  assert.fail('it was loaded')
}

test('the package of this platform is loaded', () => {
  const addon = {}
  for (const [of, platform] of [
    [{}, 'linux-x64-gnu'],
    [{ libc: 'musl' }, 'linux-x64-musl'],
    [{ arch: 'arm64' }, 'linux-arm64-gnu'],
    [{ arch: 'arm64', libc: 'musl' }, 'linux-arm64-musl'],
    [{ platform: 'darwin' }, 'darwin-x64'],
    [{ platform: 'darwin', arch: 'arm64' }, 'darwin-arm64'],
  ]) {
    assert.ok(PLATFORMS.includes(platform))
    const packages = { [`sticky-listen-${platform}`]: { addon: () => addon } }
    assert.equal(loadAddon(system({ ...of, packages })), addon)
  }
})

test('an error names the platform, what was looked for, and what to do', () => {
  const { message, cause } = failure()
  assert.match(message, /on linux-x64-gnu with Node 24\.1\.0/)
  assert.ok(message.includes('/nowhere/sticky-listen.linux-x64-gnu.node'))
  assert.match(message, /the package sticky-listen-linux-x64-gnu of version 1\.2\.3/)
  assert.match(message, /npm install --include=optional/)
  assert.match(message, /lock file was made on another platform/)
  assert.match(message, /npm run package in the clone makes two, and both have to be installed/)
  assert.equal(cause.code, 'MODULE_NOT_FOUND')
})

test('a platform without a binary', () => {
  assert.match(
    failure({ platform: 'freebsd' }).message,
    /on freebsd-x64 .* no binary\. .*darwin-arm64, .*linux-x64-musl\./,
  )
  assert.match(failure({ arch: 'riscv64' }).message, /on linux-riscv64-gnu .* no binary\. .*linux-x64-gnu/)
})

test('Windows', () => {
  assert.match(failure({ platform: 'win32' }).message, /on win32-x64 .*Windows is not supported.*WSL.*container/)
})

test('node_modules of a system with another C library', () => {
  const installed = (platform) => ({ [`sticky-listen-${platform}`]: {} })
  const onMusl = failure({ libc: 'musl', packages: installed('linux-x64-gnu') })
  assert.match(
    onMusl.message,
    /on linux-x64-musl .*Found sticky-listen-linux-x64-gnu instead: .* glibc .*, and this one has musl /,
  )
  const onGlibc = failure({ packages: installed('linux-x64-musl') })
  assert.match(
    onGlibc.message,
    /on linux-x64-gnu .*Found sticky-listen-linux-x64-musl instead: .* musl .*, and this one has glibc /,
  )
})

test('node_modules of another platform', () => {
  const { message } = failure({ packages: { 'sticky-listen-darwin-arm64': {} } })
  assert.match(message, /Found sticky-listen-darwin-arm64 instead: .*another platform.*npm ci/)
})

test('a package of another version', () => {
  const { message } = failure({ packages: { 'sticky-listen-linux-x64-gnu': { version: '1.2.2' } } })
  assert.match(message, /of version 1\.2\.3\. Found version 1\.2\.2/)
})

test('a binary that cannot be loaded', () => {
  const broken = new Error("version `GLIBC_2.28' not found")
  const addon = () => {
    throw broken
  }
  const { message, cause } = failure({ packages: { 'sticky-listen-linux-x64-gnu': { addon } } })
  assert.match(
    message,
    /Found the package .*, which cannot be loaded: version `GLIBC_2\.28' not found\. .*needs glibc 2\.28/,
  )
  assert.equal(cause, broken)
})

/** Runs `require('sticky-listen')` of a copy of this package, after some code. */
function run(t, { before = '', copy = () => {} } = {}) {
  const root = path.join(directory(t), 'node_modules', name)
  for (const file of ['package.json', 'index.js', 'native.js', 'lib']) {
    fs.cpSync(path.join(ROOT, file), path.join(root, file), { recursive: true })
  }
  copy(root)
  const code = `${before}
    try { require('sticky-listen') } catch ({ code, message }) { console.log(code, message) }`
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', code], { cwd: path.dirname(root), encoding: 'utf8' })
  assert.equal(stderr, '')
  return stdout
}

const pretend = (property, value) => `Object.defineProperty(${property}, { value: ${JSON.stringify(value)} })`

test('without its package it cannot be required, and says so', (t) => {
  assert.match(run(t), /^ERR_STICKY_NO_BINARY .*npm install --include=optional/)
})

test('a clone wants to be built', (t) => {
  const copy = (root) => fs.writeFileSync(path.join(root, 'Cargo.toml'), '')
  assert.match(run(t, { copy }), /^ERR_STICKY_NO_BINARY .*npm run build/)
})

test('on Windows, too', (t) => {
  assert.match(run(t, { before: pretend("process, 'platform'", 'win32') }), /^ERR_STICKY_NO_BINARY .*on win32-/)
})

test('an old Node is told so, whatever is installed', (t) => {
  const old = pretend("process.versions, 'node'", '18.20.8')
  const copy = (root) => fs.writeFileSync(path.join(root, 'lib', 'options.js'), 'a syntax of the future')
  assert.match(run(t, { before: old, copy }), /^ERR_STICKY_NO_BINARY .*with Node 18\.20\.8.* Use Node 20 or later/)
})

test('a process with musl looks for a binary for it', (t) => {
  const musl =
    'const report = process.report.getReport(); delete report.header.glibcVersionRuntime; process.report.getReport = () => report;'
  const before = `${pretend("process, 'platform'", 'linux')}; ${musl}`
  assert.match(run(t, { before }), /^ERR_STICKY_NO_BINARY .*on linux-\w+-musl /)
})

test('a file that is no addon says what it is', (t) => {
  const copy = (root) => {
    for (const platform of PLATFORMS) fs.writeFileSync(path.join(root, `sticky-listen.${platform}.node`), 'no addon')
  }
  assert.match(run(t, { copy }), /^ERR_STICKY_NO_BINARY .*Found \/.*\.node, which cannot be loaded: /)
})

test('the report that finds the C library leaves no trace', () => {
  const before = process.report.excludeNetwork
  delete require.cache[require.resolve('../native')]
  require('../native')
  assert.equal(process.report.excludeNetwork, before)
})
