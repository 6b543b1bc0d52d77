'use strict'

// The life of a connection on both sides, in words.

// What belongs to it: so many milliseconds before and after.
const AROUND = 1500

/**
 * @param {import('./judge').Violation} violation
 * @param {import('./judge').Evidence} evidence
 * @param {number} began when the history did
 * @returns {string[]}
 */
function lifeOf({ exchange, at }, { entries, faults }, began) {
  const from = (exchange?.began ?? at) - AROUND
  const to = (exchange?.ended ?? at) + AROUND
  const lines = faults
    .filter((fault) => fault.from <= to && fault.to >= from)
    .map(({ from, to, ...fault }) => ({
      t: from,
      text: `fault for ${(to - from).toFixed(0)} ms ${JSON.stringify(fault)}`,
    }))
  for (const { t, pid, what, ...fields } of entries) {
    const own = exchange && (fields.id === exchange.id || fields.key === exchange.key)
    const about = !['adopted', 'answered', 'debug', 'slots'].includes(what)
    if (t >= from && t <= to && (own || about)) lines.push({ t, text: `${pid} ${what} ${JSON.stringify(fields)}` })
  }
  if (exchange) {
    const { began, ended, ...rest } = exchange
    lines.push({ t: began, text: `the client begins ${JSON.stringify(rest)}` }, { t: ended, text: 'the client ends' })
  }
  return lines.sort((a, b) => a.t - b.t).map(({ t, text }) => `${((t - began) / 1000).toFixed(3)} s ${text}`)
}

module.exports = { lifeOf }
