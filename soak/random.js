'use strict'

// Numbers that follow from a seed (mulberry32), and what is drawn with them.

class Random {
  #state

  /** @param {number} seed */
  constructor(seed) {
    this.#state = seed >>> 0
  }

  /** 0 to 1, without 1. */
  fraction() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /**
   * An integer from `least` to `most`.
   * @param {number} least
   * @param {number} most
   */
  integer(least, most) {
    return least + Math.floor(this.fraction() * (most - least + 1))
  }

  /** @param {number} probability */
  chance(probability) {
    return this.fraction() < probability
  }

  /**
   * @template T
   * @param {readonly T[]} choices
   * @returns {T}
   */
  one(choices) {
    return choices[this.integer(0, choices.length - 1)]
  }

  /**
   * A key, as often as its weight says.
   * @template {string} K
   * @param {Record<K, number>} weights
   * @returns {K}
   */
  weighted(weights) {
    const entries = /** @type {[K, number][]} */ (Object.entries(weights))
    let left = this.fraction() * entries.reduce((sum, [, weight]) => sum + weight, 0)
    for (const [key, weight] of entries) {
      left -= weight
      if (left < 0) return key
    }
    return entries[entries.length - 1][0]
  }

  /** Numbers of its own, which do not depend on how many are drawn elsewhere. */
  fork() {
    return new Random(this.integer(0, 2 ** 32 - 1))
  }
}

module.exports = { Random }
