'use strict'

// Programs that some tests need beside Node.

const { execFileSync } = require('node:child_process')

/**
 * Whether a program is there. Where it is not, the test that asks is skipped on a developer's machine
 * and fails in CI, which installs it.
 * @param {import('node:test').TestContext} t
 * @param {string} program
 * @returns {boolean}
 */
function has(t, program) {
  try {
    execFileSync('which', [program], { stdio: 'ignore' })
    return true
  } catch {
    if (process.env.CI) throw new Error(`${program} is not installed`)
    t.skip(`${program} is not installed`)
    return false
  }
}

module.exports = { has }
