'use strict'

/**
 * Milliseconds on the clock that all processes of a machine share, and that nobody sets.
 * @returns {number}
 */
const now = () => Number(process.hrtime.bigint()) / 1e6

module.exports = { now }
