'use strict'

/**
 * The middle of some values and how far they spread.
 * @typedef {object} Spread
 * @property {number} median
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
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]]
  return { median: (low + high) / 2, min: sorted[0], max: sorted[sorted.length - 1], count: sorted.length }
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
