'use strict'

/**
 * The middle of some values and how far they spread.
 * @typedef {object} Spread
 * @property {number} median
 * @property {number} low the lower quartile
 * @property {number} high the upper one
 * @property {number} min
 * @property {number} max
 * @property {number} count
 */

/**
 * @param {number[]} values
 * @returns {Spread | undefined} nothing when there are no values
 */
function spread(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b)
  if (sorted.length === 0) return undefined
  // Between two values, the share of each.
  const at = (/** @type {number} */ share) => {
    const place = share * (sorted.length - 1)
    const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]]
    return below + (above - below) * (place % 1)
  }
  return { median: at(0.5), low: at(0.25), high: at(0.75), min: at(0), max: at(1), count: sorted.length }
}

/**
 * A copy in random order.
 * @template T
 * @param {T[]} items
 * @returns {T[]}
 */
function shuffled(items) {
  return items
    .map((item) => ({ item, key: Math.random() }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item)
}

module.exports = { spread, shuffled }
