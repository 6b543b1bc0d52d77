'use strict'

// Where a user reads on: every code has a section on this page, with its cause and remedy.

const { homepage } = require('../package.json')

const ERRORS = `${homepage.replace(/#.*/, '')}/blob/main/docs/errors.md`

/**
 * What a message about an error or a warning ends with.
 * @param {string} code
 */
const readOn = (code) => `See ${ERRORS}#${code.toLowerCase()}`

module.exports = { readOn }
