'use strict'

// Which binary belongs to this system, and what to do where it cannot be loaded.

const { existsSync } = require('node:fs')
const path = require('node:path')
const { noBinary } = require('./errors')

// One package for each, sticky-listen-<platform>.
const PLATFORMS = [
  'darwin-arm64',
  'darwin-x64',
  'linux-arm64-gnu',
  'linux-arm64-musl',
  'linux-x64-gnu',
  'linux-x64-musl',
]

// What the gnu binaries are linked against, as Node's own are; scripts/build-target.sh reads it here.
const GLIBC = '2.28'

/**
 * @typedef {object} System
 * @property {string} root where this package is
 * @property {string} version of this package
 * @property {string} engines the Nodes that it supports: '>=20'
 * @property {string} node the version of this one
 * @property {string} platform
 * @property {string} arch
 * @property {() => string} libc 'gnu' or 'musl'; Linux only
 * @property {(id: string) => any} require from where this package is
 */

/** @param {System} system */
function loadAddon(system) {
  const { root, version, engines, node, require } = system
  const wanted = Number(/\d+/.exec(engines))
  if (Number.parseInt(node, 10) < wanted) {
    throw noBinary(`${system.platform}-${system.arch}`, node, [`a Node ${engines}`], `Use Node ${wanted} or later.`)
  }

  const platform = platformOf(system)
  const file = path.join(root, `sticky-listen.${platform}.node`)
  const name = `sticky-listen-${platform}`
  /**
   * @param {string} advice
   * @param {unknown} [cause]
   */
  const failure = (advice, cause) =>
    noBinary(platform, node, [file, `the package ${name} of version ${version}`], advice, cause)

  if (existsSync(file)) return loaded(file, file)
  let found
  try {
    found = require(`${name}/package.json`).version
  } catch (error) {
    throw failure(adviceIfMissing(platform, system), error)
  }
  if (found !== version) {
    throw failure(
      `Found version ${found} of that package. Both must be of the same version: update sticky-listen and let that ` +
        'bring its package, then install again with an empty node_modules.',
    )
  }
  return loaded(name, `the package ${name}`)

  /**
   * @param {string} id
   * @param {string} what
   */
  function loaded(id, what) {
    try {
      return require(id)
    } catch (error) {
      throw failure(
        `Found ${what}, which cannot be loaded: ${/** @type {any} */ (error)?.message}. ${adviceIfBroken(platform)}`,
        error,
      )
    }
  }
}

/**
 * As in the names of the packages.
 * @param {Pick<System, 'platform' | 'arch' | 'libc'>} system
 */
function platformOf({ platform, arch, libc }) {
  return platform === 'linux' ? `${platform}-${arch}-${libc()}` : `${platform}-${arch}`
}

/** The C library of this process: Node's report names glibc's version, and nothing for musl. */
function libc() {
  /** @type {any} not all of it has types */
  const { report } = process
  const { excludeNetwork } = report
  // Otherwise names are looked up for the addresses of all open sockets, which may take seconds.
  report.excludeNetwork = true
  try {
    return 'glibcVersionRuntime' in report.getReport().header ? 'gnu' : 'musl'
  } finally {
    report.excludeNetwork = excludeNetwork
  }
}

/**
 * @param {string} platform
 * @param {System} system
 */
function adviceIfMissing(platform, { root, require }) {
  if (platform.startsWith('win32-')) {
    return 'Windows is not supported. Run Node in WSL or in a Linux container.'
  }
  if (!PLATFORMS.includes(platform)) {
    return `This platform has no binary. Those that have one: ${PLATFORMS.join(', ')}.`
  }
  if (existsSync(path.join(root, 'Cargo.toml'))) return 'This is a clone, and was not built: npm run build.'
  const other = PLATFORMS.find((candidate) => has(`sticky-listen-${candidate}`, require))
  if (!other) {
    return (
      'Optional dependencies were not installed. Install them, without --omit=optional: npm install --include=optional. ' +
      'If that does not help, the lock file was made on another platform and lacks this one: remove package-lock.json ' +
      'and node_modules, then install again. If it was installed from an archive that you packed: npm run package in the ' +
      'clone makes two, and both have to be installed.'
    )
  }
  const here = platform.split('-')
  const there = other.split('-')
  const sameButLibc = here[0] === there[0] && here[1] === there[1]
  const mixUp = sameButLibc
    ? `node_modules was installed on a system with ${LIBC[there[2]]}, and this one has ${LIBC[here[2]]}`
    : 'node_modules was installed on another platform'
  return (
    `Found sticky-listen-${other} instead: ${mixUp}. Do not copy node_modules from one to the other (or between images): ` +
    'run npm ci where the program runs.'
  )
}

/** @type {Record<string, string>} */
const LIBC = { gnu: 'glibc (as in Debian)', musl: 'musl (as in Alpine)' }

/**
 * @param {string} name
 * @param {System['require']} require
 */
function has(name, require) {
  try {
    require(`${name}/package.json`)
    return true
  } catch {
    return false
  }
}

/** @param {string} platform */
function adviceIfBroken(platform) {
  const needs = platform.endsWith('-gnu') ? ` It needs glibc ${GLIBC} or later.` : ''
  return `Remove node_modules and install again where the program runs.${needs}`
}

module.exports = { PLATFORMS, libc, loadAddon, platformOf }
