// The small plots: what the balancer's counters did in the last minute, a point for each second, drawn by uPlot.
//
// The primary's pictures have the counters of stats(); a rate is the difference of two. Nothing is kept but what is drawn, and
// the minute begins when the page is opened.

// How much is drawn, in seconds.
const SPAN = 60

// Pictures come more often, and not quite regularly.
const LEAST_INTERVAL = 0.9

const SLOT_COLORS = 4

/**
 * The custom property that has a slot's colour.
 * @param {number} slot
 */
export function slotColor(slot) {
  return `--slot-${slot % SLOT_COLORS}`
}

/**
 * @param {{ rate: HTMLElement, waiting: HTMLElement, share: HTMLElement }} areas where to draw
 * @param {(latest: { rate: number, waiting: number, shares: number[] }) => void} onPoint called with every new point
 */
export function createPlots(areas, onPoint) {
  /** @type {{ time: number, rate: number, waiting: number, shares: number[] }[]} */
  let points = []
  /** The counters at the latest point. */
  let last
  /** The most that waited since then: a wait is often shorter than the time between two points. */
  let waiting = 0
  /** @type {{ rate: uPlot, waiting: uPlot, share: uPlot } | undefined} */
  let plots

  // Drawn with the colours of the moment.
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const plot of Object.values(plots ?? {})) plot.redraw()
  })

  function draw() {
    const slots = points[0].shares.length
    if (plots?.share.series.length !== slots + 1) {
      for (const plot of Object.values(plots ?? {})) plot.destroy()
      plots = {
        rate: createPlot(areas.rate, { colors: ['--accent'], least: 10, filled: true }),
        waiting: createPlot(areas.waiting, { colors: ['--warn'], least: 10, filled: true }),
        share: createPlot(areas.share, { colors: points[0].shares.map((_, slot) => slotColor(slot)), percent: true }),
      }
    }
    const times = points.map(({ time }) => time)
    plots.rate.setData([times, points.map(({ rate }) => rate)])
    plots.waiting.setData([times, points.map((point) => point.waiting)])
    plots.share.setData([times, ...points[0].shares.map((_, slot) => points.map(({ shares }) => shares[slot]))])
  }

  return {
    /** @param {{ cluster: number, now: number, stats: import('sticky-listen').BalancerStats }} picture */
    add({ cluster, now, stats }) {
      const time = now / 1000
      waiting = Math.max(waiting, stats.waiting)
      const elapsed = time - (last?.time ?? time)
      // Another primary process counts from zero.
      if (last && last.cluster === cluster && elapsed < LEAST_INTERVAL) return
      if (last?.cluster === cluster) {
        const shares = stats.slots.map(({ share }) => share)
        const point = { time, rate: (stats.accepted - last.accepted) / elapsed, waiting, shares }
        // Some that are older, so that the lines begin at the edge.
        const kept = points.filter((old) => old.time > time - SPAN - 5 && old.shares.length === shares.length)
        points = [...kept, point]
        draw()
        onPoint(point)
      } else {
        points = []
      }
      last = { cluster, time, accepted: stats.accepted }
      waiting = stats.waiting
    },
  }
}

/**
 * @param {HTMLElement} area
 * @param {{ colors: string[], least?: number, filled?: boolean, percent?: boolean }} options `colors`: custom properties, of each
 * line; `least`: what the scale reaches at the least
 */
function createPlot(area, { colors, least = 1, filled = false, percent = false }) {
  const size = () => ({ width: area.clientWidth, height: area.clientHeight })
  const axis = {
    stroke: () => color('--soft'),
    font: `11px ${getComputedStyle(area).fontFamily}`,
    ticks: { show: false },
    grid: { stroke: () => color('--line'), width: 1 },
  }
  const plot = new uPlot(
    {
      ...size(),
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: false, range: (_plot, _first, latest) => [latest - SPAN, latest] },
        y: { range: (_plot, _lowest, highest) => (percent ? [0, 1] : [0, Math.max(least, highest * 1.1)]) },
      },
      axes: [
        {
          ...axis,
          size: 22,
          gap: 4,
          grid: { show: false },
          splits: (_plot, _axis, from, to) => [from, (from + to) / 2, to],
          values: () => [`−${SPAN} s`, `−${SPAN / 2} s`, 'now'],
        },
        {
          ...axis,
          // Of one width, however long the figures are.
          size: 42,
          gap: 6,
          space: 28,
          ...(percent && { splits: () => [0, 0.5, 1], values: () => ['0 %', '50 %', '100 %'] }),
        },
      ],
      series: [
        {},
        ...colors.map((name) => ({
          stroke: () => color(name),
          fill: filled ? () => `color-mix(in srgb, ${color(name)} 15%, transparent)` : undefined,
          width: 2,
          points: { show: false },
        })),
      ],
    },
    [[], ...colors.map(() => [])],
    area,
  )
  const observer = new ResizeObserver(() => plot.setSize(size()))
  observer.observe(area)
  plot.hooks.destroy = [() => observer.disconnect()]
  return plot
}

/**
 * The present value of a custom property.
 * @param {string} name
 */
function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name)
}
