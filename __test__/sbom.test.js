'use strict'

// What npm/sbom.js says of a binary, beside what cargo says.

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const { test } = require('node:test')

const { libc, platformOf } = require('../lib/addon')
const { sbomName, tripleOf } = require('../npm/sbom')
const { has } = require('./support/tools')

const ROOT = path.join(__dirname, '..')
const PLATFORM = platformOf({ ...process, libc })

/** What `cargo tree` shows with these edges. */
function tree(edges) {
  const args = ['tree', '--locked', '--edges', edges, '--target', tripleOf(PLATFORM), '--prefix', 'none', '--no-dedupe']
  const lines = execFileSync('cargo', args, { cwd: ROOT, encoding: 'utf8' }).trim().split('\n')
  // Without itself.
  return [...new Set(lines.slice(1))].map((line) => line.replace(' v', ' ').split(' ('))
}

test('all crates that cargo shows are in it, and none that only builds or tests', (t) => {
  if (!has(t, 'cargo')) return
  const { components } = JSON.parse(fs.readFileSync(path.join(ROOT, sbomName(PLATFORM)), 'utf8'))
  const listed = components.filter(({ purl }) => purl).map(({ name, version }) => `${name} ${version}`)
  const normal = tree('normal')
  assert.deepEqual(listed.sort(), normal.map(([crate]) => crate).sort())
  assert.ok(tree('normal,build,dev').length > normal.length)

  // What macros need is in no binary. The others are there by way of crates that are no macros.
  const macros = normal.flatMap(([crate, kind]) => (kind === 'proc-macro)' ? [crate] : []))
  const scope = (crate) => components.find(({ name, version }) => `${name} ${version}` === crate).scope
  assert.ok(macros.length > 0)
  for (const crate of macros) assert.equal(scope(crate), 'excluded', crate)
  for (const name of ['proc-macro2', 'unicode-ident'])
    assert.equal(components.find((component) => component.name === name).scope, 'excluded')
  for (const name of ['napi', 'tokio', 'mio', 'libc', 'std'])
    assert.equal(components.find((component) => component.name === name).scope, 'required')
})

test('the platforms are what Rust calls them', () => {
  assert.equal(tripleOf('linux-x64-gnu'), 'x86_64-unknown-linux-gnu')
  assert.equal(tripleOf('linux-arm64-musl'), 'aarch64-unknown-linux-musl')
  assert.equal(tripleOf('darwin-arm64'), 'aarch64-apple-darwin')
})
