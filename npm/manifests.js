'use strict'

// What the published packages say of themselves: all of it comes from package.json, so that they cannot differ.

const { PLATFORMS } = require('../lib/addon')
const { PAGES } = require('../lib/help')
const manifest = require('../package.json')

/** @type {Record<string, string>} as npm names them */
const LIBC = { gnu: 'glibc', musl: 'musl' }

// What a package consists of: npm/sbom.js writes it. Tools look for this ending.
const SBOM = 'sbom.cdx.json'

/** @param {string} platform */
const packageName = (platform) => `${manifest.name}-${platform}`

/** @param {string} platform */
const binaryName = (platform) => `${manifest.napi.binaryName}.${platform}.node`

/** What a user's package.json needs; what is for development stays here. */
function mainManifest() {
  const { scripts, devDependencies, napi, ...rest } = manifest
  // Only here, as no clone needs them: it builds its own, and `npm ci` fails when the lock file lacks packages of a
  // version that is yet to be published.
  const optionalDependencies = Object.fromEntries(PLATFORMS.map((platform) => [packageName(platform), rest.version]))
  return { ...rest, files: [...rest.files, SBOM], optionalDependencies }
}

/** @param {string} platform */
function platformManifest(platform) {
  const { version, license, repository, homepage, bugs, engines } = manifest
  const [system, cpu, libc] = platform.split('-')
  return {
    name: packageName(platform),
    version,
    description: `The binary of ${manifest.name} for ${platform}`,
    license,
    repository,
    homepage,
    bugs,
    main: binaryName(platform),
    files: [binaryName(platform), SBOM],
    // Yarn would keep it in an archive otherwise, from which no binary can be loaded.
    preferUnplugged: true,
    engines,
    os: [system],
    cpu: [cpu],
    ...(libc && { libc: [LIBC[libc]] }),
  }
}

/** @param {string} platform */
function platformReadme(platform) {
  return `# ${packageName(platform)}\n\nThe binary of [${manifest.name}](${manifest.homepage}) for ${platform}; npm installs it where it fits.\n`
}

/**
 * The repository's page for a package, whose reader has none of the pages that it links to.
 * @param {string} text
 */
function mainReadme(text) {
  return text.replace(/\]\((?![a-z]+:|#)/g, `](${PAGES}`)
}

module.exports = { SBOM, binaryName, mainManifest, mainReadme, packageName, platformManifest, platformReadme }
