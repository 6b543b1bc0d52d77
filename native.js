'use strict'

// The addon: a build of this folder if there is one, else the package of this platform, which npm installs along with
// this one. What is wrong with an installation shows here, so `index.js` requires this before all else.

const { libc, loadAddon } = require('./lib/addon')
const { engines, version } = require('./package.json')

module.exports = loadAddon({
  root: __dirname,
  version,
  engines: engines.node,
  node: process.versions.node,
  platform: process.platform,
  arch: process.arch,
  libc,
  require,
})
