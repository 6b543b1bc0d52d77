'use strict'

// One plot per workload: the main figure of each contender, median and quartiles over the rounds.

const fs = require('node:fs')
const path = require('node:path')

const COLOR = '#9aa5b1'
const OURS = '#d9480f'

/**
 * @param {import('./workloads').Workload} workload
 * @param {import('./summary').Row[]} rows
 * @param {string[]} ours contenders to be told from the others
 * @param {string} subtitle
 */
function specification({ title, main, better, columns }, rows, ours, subtitle) {
  const axis = columns.find(({ figure }) => figure === main)?.title ?? main
  const values = rows.flatMap(({ contender, figures }) => {
    const spread = figures[main]
    return spread ? [{ contender, ...spread, ours: ours.includes(contender) }] : []
  })
  values.sort((a, b) => (better === 'more' ? b.median - a.median : a.median - b.median))
  const sort = values.map(({ contender }) => contender)
  const y = { field: 'contender', type: 'nominal', sort, axis: { title: null } }
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: title, subtitle: `${subtitle} · ${better} is better`, anchor: 'start' },
    width: 480,
    background: 'white',
    data: { values },
    encoding: { y },
    layer: [
      {
        mark: { type: 'bar', height: { band: 0.7 } },
        encoding: {
          x: { field: 'median', type: 'quantitative', axis: { title: axis } },
          color: { condition: { test: 'datum.ours', value: OURS }, value: COLOR },
        },
      },
      {
        mark: { type: 'rule', color: '#343a40' },
        encoding: { x: { field: 'low', type: 'quantitative' }, x2: { field: 'high' } },
      },
      {
        mark: { type: 'text', align: 'left', dx: 6, color: '#343a40' },
        encoding: {
          x: { field: 'high', type: 'quantitative' },
          text: { field: 'median', type: 'quantitative', format: ',.4~r' },
        },
      },
    ],
    config: { font: 'sans-serif', view: { stroke: null } },
  }
}

/**
 * Writes the plots as SVG files.
 * @param {any} result
 * @param {import('./workloads').Workload[]} workloads
 * @param {import('../contenders').Contender[]} contenders
 * @param {string} dir
 */
async function plot(result, workloads, contenders, dir) {
  const vega = await import('vega')
  const { compile } = await import('vega-lite')
  const { cpu, cores, node, date } = result.machine
  const subtitle = `${cpu}, ${cores} cores, Node ${node}, ${date.slice(0, 10)}`
  const ours = contenders.filter(({ own }) => own).map(({ name }) => name)
  for (const workload of workloads) {
    const rows = result.summary[workload.name]
    if (!rows?.length) continue
    const { spec } = compile(/** @type {any} */ (specification(workload, rows, ours, subtitle)))
    const view = new vega.View(vega.parse(spec), { renderer: 'none' })
    fs.writeFileSync(path.join(dir, `${workload.name}.svg`), `${await view.toSVG()}\n`)
    view.finalize()
  }
}

module.exports = { plot }
