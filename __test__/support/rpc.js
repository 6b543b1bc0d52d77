'use strict'

// The fixture's side of process.js: serves calls of the test and emits events to it, over the IPC
// channel that it shares with whatever else the fixture's program says there.

/** @param {{ [method: string]: (...args: any[]) => any }} methods */
function serve(methods) {
  process.on('message', async (/** @type {any} */ message) => {
    if (!message?.rpc) return
    const { rpc, method, args } = message
    try {
      process.send({ rpc, value: await methods[method](...args) })
    } catch (error) {
      process.send({ rpc, error: { message: error.message, name: error.name, code: error.code } })
    }
  })
}

/**
 * @param {string} event
 * @param {unknown} [value]
 */
function emit(event, value) {
  if (process.connected) process.send({ event, value })
}

/** The arguments that start() was given. */
const args = process.argv.slice(2).map((arg) => {
  try {
    return JSON.parse(arg)
  } catch {
    return arg
  }
})

module.exports = { args, emit, serve }
