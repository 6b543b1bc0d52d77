'use strict'

// The shortest part of a list that still fails, by delta debugging (Zeller's ddmin).

/**
 * @template T
 * @param {T[]} list that fails
 * @param {(part: T[]) => Promise<boolean>} fails
 * @param {() => boolean} isOver whether there is no time left
 * @returns {Promise<T[]>}
 */
async function shortest(list, fails, isOver = () => false) {
  // What fails without anything is looked for at another place.
  if (list.length > 0 && !isOver() && (await fails([]))) return []
  let pieces = 2
  while (list.length > 0 && !isOver()) {
    const size = Math.ceil(list.length / pieces)
    let shorter
    for (let from = 0; from < list.length && !shorter && !isOver(); from += size) {
      const rest = [...list.slice(0, from), ...list.slice(from + size)]
      if (await fails(rest)) shorter = rest
    }
    if (shorter) {
      list = shorter
      pieces = Math.max(2, pieces - 1)
    } else if (size === 1) {
      break
    } else {
      pieces = Math.min(list.length, pieces * 2)
    }
  }
  return list
}

module.exports = { shortest }
