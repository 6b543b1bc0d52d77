'use strict'

// The pages of the documentation, and what is in them that a test can check: headings, links, tables and blocks of code.

const fs = require('node:fs')
const path = require('node:path')

const ROOT = path.join(__dirname, '..', '..')

/**
 * A block of code.
 * @typedef {object} Block
 * @property {string} page
 * @property {number} line of its first line of code
 * @property {string} language
 * @property {string} text
 * @property {{ kind: string, value: string, asked: string | undefined } | null} directive the comment above it
 * @property {string} section the heading above it, and its line: unique in a page
 */

/** All pages of the repository that people write, as paths below its root. */
function allPages() {
  const found = []
  const look = (folder) => {
    for (const entry of fs.readdirSync(path.join(ROOT, folder), { withFileTypes: true })) {
      const file = path.join(folder, entry.name)
      if (entry.isDirectory()) {
        if (!/^(node_modules|target|\..*|.*corpus.*)$/.test(entry.name)) look(file)
      } else if (entry.name.endsWith('.md')) found.push(file)
    }
  }
  look('')
  return found
}

/** The pages for users. */
const userPages = () => allPages().filter((page) => /^(README|SECURITY|docs\/.*)\.md$/.test(page))

/** @param {string} page */
const read = (page) => fs.readFileSync(path.join(ROOT, page), 'utf8')

// `<!-- file: cluster.js -->`, `<!-- in: primary; asked: socket.io -->`
const DIRECTIVE = /^<!-- ([a-z ]+)(?:: ([^;]+?))?(?:; asked: (.+?))? -->$/

/**
 * @param {string} page
 * @returns {Block[]}
 */
function blocksOf(page) {
  const blocks = []
  const lines = read(page).split('\n')
  let section = ''
  for (let n = 0; n < lines.length; n++) {
    if (/^#+ /.test(lines[n])) section = `${lines[n]} (line ${n + 1})`
    const fence = lines[n].match(/^(\s*)(```+)(.*)$/)
    if (!fence) continue
    const [, indent, ticks, language] = fence
    const directive = lines[n - 1]?.trim().match(DIRECTIVE)
    const first = n + 1
    while (lines[++n]?.trim() !== ticks) {
      if (n >= lines.length) throw new Error(`${page}: the block at line ${first} does not end`)
    }
    blocks.push({
      page,
      line: first + 1,
      language: language.trim(),
      text: `${lines
        .slice(first, n)
        .map((line) => line.slice(indent.length))
        .join('\n')}\n`,
      directive: directive ? { kind: directive[1], value: directive[2] ?? '', asked: directive[3] } : null,
      section,
    })
  }
  return blocks
}

/**
 * A page without its blocks of code.
 * @param {string} page
 */
function prose(page) {
  return read(page).replace(/^(\s*)(```+)[\s\S]*?^\s*\2$/gm, '')
}

/**
 * As GitHub names the anchor of a heading.
 * @param {string} heading
 */
function slug(heading) {
  return heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replaceAll(' ', '-')
}

/**
 * The headings of a page, with their levels.
 * @param {string} page
 * @returns {{ level: number, text: string }[]}
 */
function headingsOf(page) {
  return [...prose(page).matchAll(/^(#+) (.+)$/gm)].map(([, { length }, text]) => ({ level: length, text }))
}

/**
 * The text below a heading, up to the next of its level or above.
 * @param {string} page
 * @param {string} heading
 */
function sectionOf(page, heading) {
  const lines = read(page).split('\n')
  const start = lines.findIndex((line) => line.replace(/^#+ /, '') === heading && line.startsWith('#'))
  if (start === -1) throw new Error(`${page} has no section ${heading}`)
  const level = lines[start].match(/^#+/)[0].length
  const length = lines.slice(start + 1).findIndex((line) => (line.match(/^(#+) /)?.[1].length ?? Infinity) <= level)
  return lines.slice(start + 1, length === -1 ? undefined : start + 1 + length).join('\n')
}

/**
 * The rows of the tables of a page that `<!-- fields: NAME -->` announces, by that name.
 * @param {string} page
 * @returns {Map<string, string[][]>}
 */
function fieldTables(page) {
  const tables = new Map()
  for (const [, name, table] of read(page).matchAll(/^<!-- fields: (\w+) -->\n((?:\|.*\n)+)/gm)) {
    const rows = table
      .trim()
      .split('\n')
      .slice(2)
      .map((row) =>
        row
          .replace(/^\||\|$/g, '')
          .split(/(?<!\\)\|/)
          .map((cell) => cell.trim().replaceAll('\\|', '|')),
      )
    if (tables.has(name)) throw new Error(`${page} has two tables of ${name}`)
    tables.set(name, rows)
  }
  return tables
}

module.exports = { ROOT, allPages, blocksOf, fieldTables, headingsOf, prose, read, sectionOf, slug, userPages }
