'use strict'

// Packs the main package and those of platforms.
//
//   node npm/package.js [--out dist] [platform...]
//
// The default is this machine's platform. The binary of each, sticky-listen.<platform>.node, must have been built, and what
// is in it written beside it (npm/sbom.js).

const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { parseArgs } = require('node:util')

const { libc, platformOf } = require('../lib/addon')
const { files } = require('../package.json')
const { binaryName, mainManifest, mainReadme, platformManifest, platformReadme } = require('./manifests')
const { SBOM, builtSbom, mainSbom, textOf } = require('./sbom')

const ROOT = path.join(__dirname, '..')

/**
 * Packs a package of these files of the repository and of others that are written for it, and says what came out.
 * @param {object} manifest
 * @param {string[]} files
 * @param {Record<string, string>} written by their names
 * @param {string} out
 */
function pack(manifest, files, written, out) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-package-'))
  try {
    for (const file of files) fs.cpSync(path.join(ROOT, file), path.join(folder, file), { recursive: true })
    for (const [file, text] of Object.entries({ ...written, 'package.json': textOf(manifest) })) {
      fs.writeFileSync(path.join(folder, file), text)
    }
    unify(folder)
    const output = execFileSync('npm', ['pack', '--json', '--pack-destination', out], { cwd: folder, encoding: 'utf8' })
    // A list, or from npm 12 on an object by name.
    const [{ filename, size, unpackedSize, entryCount }] = Object.values(JSON.parse(output))
    const kilobytes = (/** @type {number} */ bytes) => `${(bytes / 1000).toFixed(1)} kB`
    console.log(`${filename}: ${kilobytes(size)}, unpacked ${kilobytes(unpackedSize)}, ${entryCount} files`)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}

/**
 * Whatever the builder's umask is, archives are the same. (npm sees to owners and times.)
 * @param {string} folder
 */
function unify(folder) {
  for (const name of fs.readdirSync(folder, { encoding: 'utf8', recursive: true })) {
    const file = path.join(folder, name)
    fs.chmodSync(file, fs.statSync(file).isDirectory() ? 0o755 : 0o644)
  }
}

const { values, positionals } = parseArgs({
  options: { out: { type: 'string', default: path.join(ROOT, 'dist') } },
  allowPositionals: true,
})
const out = path.resolve(values.out)
const platforms = positionals.length > 0 ? positionals : [platformOf({ ...process, libc })]

fs.mkdirSync(out, { recursive: true })
for (const file of fs.readdirSync(out)) if (/^sticky-listen-.*\.tgz$/.test(file)) fs.rmSync(path.join(out, file))
const readme = mainReadme(fs.readFileSync(path.join(ROOT, 'README.md'), 'utf8'))
pack(mainManifest(), [...files, 'LICENSE'], { 'README.md': readme, [SBOM]: textOf(mainSbom()) }, out)
for (const platform of platforms) {
  const written = { 'README.md': platformReadme(platform), [SBOM]: builtSbom(platform) }
  pack(platformManifest(platform), [binaryName(platform), 'LICENSE'], written, out)
}
