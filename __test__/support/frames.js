'use strict'

// What a worker says on its private channel, as bytes: see src/channel/frame.rs. For workers that speak by hand.

const { VERSION } = require('../../lib/messages')

/** @param {{ kind: number, count?: number, time?: number, sequence?: number | bigint, slot?: number }} word */
function frame({ kind, count = 0, time = 0, sequence = 0, slot = 0 }) {
  const bytes = Buffer.alloc(20)
  bytes.writeUInt8(kind)
  bytes.writeUInt16LE(count, 2)
  bytes.writeUInt32LE(time, 4)
  bytes.writeBigUInt64LE(BigInt(sequence), 8)
  bytes.writeUInt32LE(slot, 16)
  return bytes
}

const hello = (version = VERSION) => frame({ kind: 1, count: version })
const adopted = (through, delay = 0) => frame({ kind: 3, time: delay, sequence: through })
const returned = (first, count) => frame({ kind: 4, count, sequence: first })
const released = (slot, number) => frame({ kind: 7, sequence: number, slot })

module.exports = { adopted, hello, released, returned }
