'use strict'

// Runs the suites both ways. By default balancers choose for themselves: the kernel steers wherever it can. With
// STICKY_TEST_STEERING=handover, and this file preloaded in every process by NODE_OPTIONS, those that would choose hand
// connections over instead, whatever program makes them.

const options = require('../../lib/options')

const handsOver = process.env.STICKY_TEST_STEERING === 'handover'

if (handsOver) {
  const { balancerOptions } = options
  options.balancerOptions = (first, second) => {
    const checked = balancerOptions(first, second)
    return checked.steering === 'auto' ? { ...checked, steering: 'handover' } : checked
  }
}

module.exports = {
  /** Whether the kernel steers where it can. */
  kernelSteers: !handsOver && process.platform === 'linux',
}
