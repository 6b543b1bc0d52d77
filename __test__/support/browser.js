'use strict'

// A real browser, where there is one.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const path = require('node:path')
const { after } = require('node:test')
const { chromium } = require('playwright-core')

const executablePath = findBrowser()
const NO_BROWSER = 'needs a browser: install chromium'
// On a developer's machine that is no failure; a build that silently tests less is.
const skip = executablePath || process.env.CI ? false : NO_BROWSER

function findBrowser() {
  const folders = ['/usr/bin', ...(process.env.PATH ?? '').split(path.delimiter)]
  const names = ['chromium', 'chromium-browser', 'google-chrome']
  return names.flatMap((name) => folders.map((folder) => path.join(folder, name))).find(isExecutable)
}

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK)
    return fs.statSync(file).isFile()
  } catch {
    return false
  }
}

/** @type {Promise<import('playwright-core').Browser> | undefined} one for all tests of a file */
let browser

function launch() {
  assert.ok(executablePath, NO_BROWSER)
  browser ??= chromium.launch({
    executablePath,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
  return browser
}

after(async () => {
  await (await browser)?.close()
})

module.exports = { launch, skip }
