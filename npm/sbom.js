'use strict'

// What is in the packages, as CycloneDX has it: https://cyclonedx.org/docs/1.6/json/. Nothing in it depends on when or where
// it was written.
//
//   node npm/sbom.js [platform]
//
// tells of a binary in the root folder, sticky-listen.<platform>.node, in a file beside it. Run by what builds, as it asks
// cargo and the compiler. The default is this machine's platform.

const { execFileSync } = require('node:child_process')
const { createHash } = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')

const { PLATFORMS, libc, platformOf } = require('../lib/addon')
const { license, name, version } = require('../package.json')
const { SBOM, binaryName, packageName } = require('./manifests')

const ROOT = path.join(__dirname, '..')

/** @param {string} platform */
const sbomName = (platform) => binaryName(platform).replace(/\.node$/, '.cdx.json')

/** @type {Record<string, string>} */
const CPU = { x64: 'x86_64', arm64: 'aarch64' }

/**
 * The platform as Rust calls it.
 * @param {string} platform
 */
function tripleOf(platform) {
  const [system, cpu, libc] = platform.split('-')
  return `${CPU[cpu]}-${system === 'darwin' ? 'apple-darwin' : `unknown-linux-${libc}`}`
}

/**
 * @typedef {{ 'bom-ref': string, type: string, name: string, version?: string, purl?: string, scope?: string,
 *   hashes?: { alg: string, content: string }[], licenses?: { expression: string }[], components?: Component[] }} Component
 * @typedef {{ name: string, version: string, license: string, linked: boolean, needs: Set<string> }} Crate
 */

/** @param {string} content a SHA-256, in hexadecimal */
const sha256 = (content) => [{ alg: 'SHA-256', content }]

/**
 * A package of npm.
 * @param {string} name
 * @returns {Component}
 */
function npmPackage(name) {
  const purl = `pkg:npm/${name}@${version}`
  return { 'bom-ref': purl, type: 'library', name, version, purl, licenses: [{ expression: license }] }
}

/**
 * @param {Component} component that it is about
 * @param {Component[]} components
 * @param {Map<string, Iterable<string>>} needs what each needs, by their references
 */
function sbom(component, components, needs) {
  return {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: { lifecycles: [{ phase: 'build' }], component },
    components,
    dependencies: [...needs].map(([ref, dependsOn]) => ({ ref, dependsOn: [...dependsOn].sort() })),
  }
}

/** Of the main package, which needs the one that fits of those of the platforms, and nothing else. */
function mainSbom() {
  const main = npmPackage(name)
  const platforms = PLATFORMS.map((platform) => ({ ...npmPackage(packageName(platform)), scope: 'optional' }))
  const needs = new Map([[main['bom-ref'], platforms.map((platform) => platform['bom-ref'])]])
  for (const platform of platforms) needs.set(platform['bom-ref'], [])
  return sbom(main, platforms, needs)
}

/**
 * The crates of the addon: those in it, and those that wrote some of its code, which macros do. What only a build script
 * needs is in no binary.
 * @param {string} triple
 * @returns {Map<string, Crate>} by their package URLs; the addon's own has the empty one
 */
function crates(triple) {
  const args = ['tree', '--locked', '--edges', 'normal', '--target', triple, '--no-dedupe', '--prefix', 'depth']
  const tree = execFileSync('cargo', [...args, '--format', '\t{p}\t{l}'], { cwd: ROOT, encoding: 'utf8' })
  /** @type {Map<string, Crate>} */
  const found = new Map()
  /** @type {{ ref: string, linked: boolean }[]} from the addon down to the last one */
  const way = []
  for (const line of tree.trim().split('\n')) {
    const [depth, words, license] = line.split('\t')
    const [crate, numbered, ...rest] = words.split(' ')
    const version = numbered.replace(/^v/, '')
    way.length = Number(depth)
    const parent = way.at(-1)
    const ref = parent ? `pkg:cargo/${crate}@${version}` : ''
    // A macro runs in the compiler, and so does what it needs.
    const linked = (parent?.linked ?? true) && !rest.includes('(proc-macro)')
    way.push({ ref, linked })
    if (parent) found.get(parent.ref)?.needs.add(ref)
    const known = found.get(ref)
    if (known) known.linked ||= linked
    // An old spelling of "or".
    else found.set(ref, { name: crate, version, license: license.replaceAll('/', ' OR '), linked, needs: new Set() })
  }
  return found
}

/** @returns {Map<string, string>} the SHA-256 of each crate's archive, by its package URL */
function checksums() {
  const lock = fs.readFileSync(path.join(ROOT, 'Cargo.lock'), 'utf8')
  const known = lock.matchAll(/^name = "(.*)"\nversion = "(.*)"\nsource = .*\nchecksum = "(.*)"$/gm)
  return new Map([...known].map(([, name, version, checksum]) => [`pkg:cargo/${name}@${version}`, checksum]))
}

/**
 * Of a platform's package.
 * @param {string} platform
 */
function platformSbom(platform) {
  const file = binaryName(platform)
  const binary = {
    'bom-ref': file,
    type: 'file',
    name: file,
    hashes: sha256(hashOf(platform)),
  }
  const main = { ...npmPackage(packageName(platform)), components: [binary] }
  const sums = checksums()
  const rust = /^release: (.*)$/m.exec(execFileSync('rustc', ['-vV'], { cwd: ROOT, encoding: 'utf8' }))?.[1]
  const std = {
    'bom-ref': 'rust-std',
    type: 'library',
    name: 'std',
    version: rust,
    scope: 'required',
    licenses: [{ expression: 'MIT OR Apache-2.0' }],
  }
  /** @type {Component[]} */
  const components = [std]
  const needs = new Map([[main['bom-ref'], [file]]])
  for (const [ref, { name, version, license, linked, needs: others }] of crates(tripleOf(platform))) {
    needs.set(ref || file, ref ? [...others] : [...others, std['bom-ref']])
    if (!ref) continue
    const checksum = sums.get(ref)
    if (!checksum) throw new Error(`Cargo.lock has no checksum of ${name} ${version}`)
    components.push({
      'bom-ref': ref,
      type: 'library',
      name,
      version,
      purl: ref,
      // Not in what is delivered: it ran in the compiler.
      scope: linked ? 'required' : 'excluded',
      hashes: sha256(checksum),
      licenses: [{ expression: license }],
    })
  }
  needs.set(std['bom-ref'], [])
  components.sort((a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1))
  return sbom(main, components, needs)
}

/**
 * @param {string} platform
 * @returns {string} the SHA-256 of the binary that was built
 */
function hashOf(platform) {
  return createHash('sha256')
    .update(fs.readFileSync(path.join(ROOT, binaryName(platform))))
    .digest('hex')
}

/**
 * What was written beside a binary when it was built.
 * @param {string} platform
 * @returns {string}
 */
function builtSbom(platform) {
  const text = fs.readFileSync(path.join(ROOT, sbomName(platform)), 'utf8')
  const [binary] = JSON.parse(text).metadata.component.components
  if (binary.hashes[0].content !== hashOf(platform)) {
    throw new Error(`${sbomName(platform)} is of another binary than ${binaryName(platform)}. Build it again.`)
  }
  return text
}

/** @param {object} sbom */
const textOf = (sbom) => `${JSON.stringify(sbom, null, 2)}\n`

module.exports = { SBOM, builtSbom, mainSbom, sbomName, textOf, tripleOf }

if (require.main === module) {
  const platform = process.argv[2] ?? platformOf({ ...process, libc })
  fs.writeFileSync(path.join(ROOT, sbomName(platform)), textOf(platformSbom(platform)))
}
