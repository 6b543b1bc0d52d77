'use strict'

// The result as Markdown.

/**
 * @param {string[]} head
 * @param {string[][]} rows
 */
function table(head, rows) {
  const line = (/** @type {string[]} */ cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map((_, n) => (n === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')
}

/**
 * @param {number | undefined} value
 * @param {number} [digits]
 */
function number(value, digits = 0) {
  if (value === undefined || !Number.isFinite(value)) return '–'
  return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

/** @param {import('./statistics').Spread | undefined} ratio */
function withSpread(ratio) {
  if (!ratio) return '–'
  return `${number(ratio.median, 2)} (${number(ratio.low, 2)}–${number(ratio.high, 2)})`
}

/**
 * @param {import('./workloads').Workload} workload
 * @param {import('./summary').Row[]} rows
 * @param {import('../contenders').Contender[]} contenders
 */
function workloadTable({ title, main, better, against, columns }, rows, contenders) {
  const compared = against.filter((other) => rows.some(({ contender }) => contender === other))
  const mainTitle = columns.find(({ figure }) => figure === main)?.title ?? main
  const head = [
    '',
    'sticky by',
    ...compared.map((other) => `${mainTitle} vs ${other}`),
    ...columns.map((column) => column.title),
    'errors',
    'clients moved',
  ]
  const sign = better === 'more' ? -1 : 1
  const sorted = [...rows].sort((a, b) => sign * ((a.figures[main]?.median ?? 0) - (b.figures[main]?.median ?? 0)))
  const cells = sorted.map(({ contender, figures, ratios }) => [
    contender,
    contenders.find(({ name }) => name === contender)?.sticky ?? '',
    ...compared.map((other) => withSpread(ratios[other]?.[main])),
    ...columns.map(({ figure, digits }) => number(figures[figure]?.median, digits)),
    // The worst round: a median would hide them.
    number(figures.errors?.max),
    number(figures.movedClients?.max),
  ])
  return `### ${title}\n\n${table(head, cells)}`
}

/** @param {any} ceiling */
function ceilingTable(ceiling) {
  const rows = ceiling.primary.map((/** @type {any} */ run) => [
    `${run.workers} workers, ${number(run.waiting)} waiting`,
    number(run.connectionsPerCoreSecond.median),
    withSpread(run.ratioToRaw),
    number(run.idleCpuMicrosPerSecond.median / 1e4, 2),
  ])
  rows.push(['raw accept4 + close', number(ceiling.raw.connectionsPerCoreSecond.median), '1.00', ''])
  const { connections, bytesEach, descriptorsEach } = ceiling.waiting
  return [
    '### The primary alone, handing over to native workers that adopt and close',
    table(['', "connections per second of the thread's CPU", 'vs raw', 'CPU % without load'], rows),
    `${number(connections)} connections that wait cost the primary ${number(bytesEach)} bytes and ` +
      `${number(descriptorsEach, 2)} descriptors each.`,
  ].join('\n\n')
}

/** @param {ReturnType<typeof import('./targets').check>} targets */
function targetTable(targets) {
  const rows = targets.map(({ title, relation, must, measured, isSound, holds }) => [
    title,
    `${relation} ${must}`,
    number(measured, 3) + (isSound ? '' : ' (errors, or clients moved)'),
    holds === undefined ? 'not measured' : holds ? 'pass' : 'MISS',
  ])
  return `### Targets\n\n${table(['', 'must', 'measured', 'verdict'], rows)}`
}

/**
 * @param {any} result
 * @param {import('./workloads').Workload[]} workloads
 * @param {import('../contenders').Contender[]} contenders
 */
function report(result, workloads, contenders) {
  const { cpu, cores, memoryGiB, kernel, node, commit, date } = result.machine
  const { starts, rounds, seconds, workers, rate } = result.setting
  const remarks = contenders.flatMap(({ name, remark }) => (remark ? [`- ${name}: ${remark}`] : []))
  return [
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, ${kernel}, Node ${node}, commit ${commit}, ${date}.`,
    `${workers} workers, ${starts} starts of all contenders with ${rounds} rounds of ${seconds} s in each, contenders ` +
      'in random order in each round (WebSockets: one round in each start). Ratios are of the same round: median ' +
      '(quartiles). Other figures are medians; errors and moved clients of the worst round.' +
      (rate ? ` Open loop: ${number(rate)} connections/s.` : ''),
    ...(remarks.length ? [remarks.join('\n')] : []),
    ...result.remarks.map((/** @type {string} */ remark) => `**${remark}**`),
    ...workloads
      .filter(({ name }) => result.summary[name]?.length)
      .map((workload) => workloadTable(workload, result.summary[workload.name], contenders)),
    ...(result.ceiling ? [ceilingTable(result.ceiling)] : []),
    ...(result.targets.length ? [targetTable(result.targets)] : []),
  ].join('\n\n')
}

module.exports = { number, report, table }
