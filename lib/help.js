'use strict'

// What messages have in common: words for a value, and where a user reads on. Every code has a section on that page, with its
// cause and remedy.

const { inspect } = require('node:util')
const { homepage } = require('../package.json')

// The pages of the repository: packages have none of them.
const PAGES = `${homepage.replace(/#.*/, '')}/blob/main/`

/**
 * What a message about an error or a warning ends with.
 * @param {string} code
 */
const readOn = (code) => `See ${PAGES}docs/errors.md#${code.toLowerCase()}`

/**
 * A value as Node's errors tell of it.
 * @param {unknown} value
 */
function inWords(value) {
  if (value === null || value === undefined) return `${value}`
  if (typeof value === 'function') return value.name === '' ? 'an anonymous function' : `function ${value.name}`
  if (typeof value === 'object') {
    const name = value.constructor?.name
    return name ? `an instance of ${name}` : inspect(value, { depth: -1 })
  }
  return `type ${typeof value} (${inspect(value).slice(0, 28)})`
}

module.exports = { PAGES, inWords, readOn }
