'use strict'

// The program's side of process.js: answers calls, and tells of what happened.

/** @param {{ [method: string]: (...args: any[]) => any }} methods */
function serve(methods) {
  process.on('message', async (/** @type {any} */ message) => {
    if (!message?.call) return
    const { call, method, args } = message
    try {
      tell({ call, value: await methods[method](...args) })
    } catch (error) {
      tell({ call, error: /** @type {Error} */ (error).stack })
    }
  })
}

/** @param {object} message */
function tell(message) {
  if (process.connected) process.send?.(message, undefined, undefined, () => {})
}

module.exports = { serve, tell }
