'use strict'

// What the driver tells a contender.

module.exports = { PORT: Number(process.env.BENCH_PORT), WORKERS: Number(process.env.BENCH_WORKERS) }
