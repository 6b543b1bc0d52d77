// The demo's page: one socket.io connection, and what it and the primary tell, shown to a person.
//
// The worker that serves this browser says `welcome` once; pictures of the whole cluster follow, made
// by the primary. What the cluster did is told by the events in them, what this browser noticed of it
// is added here.

import { createPlots, slotColor } from './plots.js'

const $ = (id) => document.getElementById(id)

const TRANSPORTS = {
  polling: { options: ['polling'], name: 'long-polling' },
  websocket: { options: ['polling', 'websocket'], name: 'WebSocket' },
}

// ---- The connection ----

const controls = $('controls')

const socket = io({
  transports: TRANSPORTS[controls.elements.transport.value].options,
  // Soon, as the balancer holds the connection until the slot has a worker again.
  reconnectionDelay: 100,
  reconnectionDelayMax: 1000,
})

/** The worker that serves this browser, or did before the connection was lost. */
let served

/** When the connection was lost; undefined while there is one. */
let lostAt

/** Whether the connection was given up for one over another transport. */
let switching = false

/** Whether the latest attempt to connect got no answer. */
let unanswered = false

/** What the primary sent last. */
let picture

socket.on('connect', () => {
  unanswered = false
})

socket.on('welcome', ({ pid, slot, address }) => {
  const before = served
  const over = `over ${TRANSPORTS[transport()].name}`
  const after = lostAt === undefined || switching ? '' : `, after ${seconds(lostAt)} without a connection`
  served = { pid, slot, address, since: before?.pid === pid ? before.since : Date.now() }
  lostAt = undefined
  switching = false
  if (!before) log(`This browser is connected to worker ${pid} in slot ${slot}, ${over}.`, 'good')
  else if (before.pid === pid) log(`This browser is back on worker ${pid} in slot ${slot}, ${over}${after}.`, 'good')
  else if (before.slot === slot) log(`Worker ${pid} serves this browser now, in the same slot ${slot}${after}.`, 'good')
  else log(`Worker ${pid} serves this browser now, in slot ${slot} instead of ${before.slot}${after}.`, 'bad')
  // Only now, as the upgrade may well be quicker than the welcome.
  socket.io.engine.once('upgrade', () => {
    log(`Upgraded to WebSocket, still on worker ${pid}.`)
    render()
  })
  render()
})

socket.on('disconnect', () => {
  // Lost again, before the next worker's welcome?
  if (!served || lostAt !== undefined) return
  lostAt = Date.now()
  if (!switching) {
    const why = picture?.reloading ? 'makes way for its successor' : 'is gone'
    log(`Worker ${served.pid} ${why}. This browser connects again by itself.`, 'bad')
  }
  render()
})

socket.on('connect_error', () => {
  if (unanswered) return
  unanswered = true
  log('No worker answers. This browser tries again until one does.', 'bad')
  render()
})

socket.on('picture', (now) => {
  if (picture && picture.cluster !== now.cluster) lastEvent = 0
  picture = now
  plots.add(now)
  for (const event of now.events) {
    if (event.id <= lastEvent) continue
    lastEvent = event.id
    // By age, as this machine's clock may differ from the server's.
    log(event.text, 'cluster', Date.now() - (now.now - event.time))
  }
  render()
})

function transport() {
  return socket.io.engine?.transport?.name ?? 'polling'
}

// ---- The buttons ----

controls.addEventListener('change', () => {
  const { options, name } = TRANSPORTS[controls.elements.transport.value]
  log(`You chose ${name}. This browser connects anew.`)
  switching = true
  socket.io.opts.transports = options
  socket.disconnect().connect()
})

// aria-disabled and not disabled: a button that has the focus keeps it.
for (const command of ['reload', 'kill']) {
  $(command).addEventListener('click', () => {
    if ($(command).ariaDisabled !== 'true') socket.emit(command)
  })
}

// ---- The plots ----

const plots = createPlots({ rate: $('plot-rate'), waiting: $('plot-waiting'), share: $('plot-share') }, (latest) => {
  show('rate', latest.rate.toFixed(1))
  show('waiting', latest.waiting)
  const keys = latest.shares.map((_, slot) => {
    const key = document.createElement('b')
    key.className = 'key'
    key.style.setProperty('--key', `var(${slotColor(slot)})`)
    key.textContent = slot
    return key
  })
  if ($('keys').children.length !== keys.length) $('keys').replaceChildren(...keys)
})

// ---- The log ----

const LOG_LENGTH = 100

/** The number of the latest event of the cluster that was logged. */
let lastEvent = 0

/**
 * Adds a line, the newest on top.
 * @param {string} text
 * @param {'good' | 'bad' | 'cluster' | 'plain'} [kind]
 * @param {number} [time]
 */
function log(text, kind = 'plain', time = Date.now()) {
  const line = document.createElement('li')
  line.className = `entry ${kind}`
  const stamp = document.createElement('time')
  stamp.className = 'entry-time'
  stamp.dateTime = new Date(time).toISOString()
  stamp.textContent = new Date(time).toLocaleTimeString([], { hourCycle: 'h23' })
  const words = document.createElement('span')
  words.className = 'entry-text'
  words.textContent = text
  line.append(stamp, ' ', words)
  // The primary's account of a thing may come after this browser noticed its effect.
  const lines = $('log').children
  const before = Array.from(lines).find((other) => other.firstChild.dateTime <= stamp.dateTime)
  $('log').insertBefore(line, before ?? null)
  if (lines.length > LOG_LENGTH) lines[lines.length - 1].remove()
}

// ---- The rest of the page ----

function render() {
  const connected = lostAt === undefined && served !== undefined
  const state = connected ? 'connected' : served || unanswered ? 'reconnecting' : 'connecting'
  document.body.dataset.state = state
  show('status', { connected: 'Connected', connecting: 'Connecting', reconnecting: 'Reconnecting' }[state])
  if (served) {
    document.title = `Worker ${served.pid} · sticky-listen demo`
    show('worker', served.pid)
    show('slot', served.slot)
    show('address', served.address)
    showOther(served.address)
  }
  if (connected) show('transport', { polling: 'Long-polling', websocket: 'WebSocket' }[transport()])
  showSince()
  const reloading = picture?.reloading === true
  show('reload', reloading ? 'Reloading' : 'Reload cluster')
  $('reload').ariaDisabled = String(!connected || reloading)
  // While a reload is under way the primary ignores it.
  $('kill').ariaDisabled = String(!connected || reloading)
  if (!picture) return
  show('connections', picture.connections)
  for (const total of ['accepted', 'adopted', 'redelivered', 'refused']) show(`total-${total}`, picture.stats[total])
  show('steering', steeringText(picture.steering))
  renderSlots(picture.stats)
}

/** @param {{ mode: 'kernel' | 'handover', reason: string } | null} steering */
function steeringText(steering) {
  if (!steering) return '–'
  const who = { kernel: 'by the kernel', handover: 'the primary hands connections over' }[steering.mode]
  return `${who} (${steering.reason})`
}

/** @param {{ adopted: number, slots: { pid: number | null, adopted: number, waiting: number, inFlight: number }[] }} stats */
function renderSlots({ adopted: total, slots }) {
  const list = $('slots')
  while (list.children.length > slots.length) list.lastElementChild.remove()
  for (const [slot, { pid, adopted, waiting, inFlight }] of slots.entries()) {
    const item = slotItem(list, slot)
    const field = (name) => item.querySelector(`[data-field=${name}]`)
    const share = total === 0 ? 0 : adopted / total
    const shown = field('pid').textContent
    const values = { slot, pid: pid ?? 'starting', adopted, waiting, inFlight, share: `${Math.round(share * 100)} %` }
    for (const [name, value] of Object.entries(values)) setText(field(name), value)
    field('bar').style.inlineSize = `${share * 100}%`
    // A new worker is worth a glance.
    if (pid && shown && shown !== String(pid)) field('pid').animate({ color: ['var(--accent)', 'inherit'] }, 2000)
    item.classList.toggle('empty', pid === null)
    item.classList.toggle('mine', slot === served?.slot)
    item.ariaCurrent = slot === served?.slot ? 'true' : null
  }
}

/** The item that shows a slot, made from the template at first. */
function slotItem(list, slot) {
  const place = list.children[slot]
  if (place?.firstElementChild) return place
  const made = $('slot-template').content.firstElementChild.cloneNode(true)
  if (place) place.replaceWith(made)
  else list.append(made)
  return made
}

function showSince() {
  if (lostAt !== undefined) show('since', `until ${duration(Date.now() - lostAt)} ago`)
  else if (served) show('since', `for ${duration(Date.now() - served.since)}`)
}

setInterval(showSince, 250)

/** @param {number} time */
function seconds(time) {
  return `${((Date.now() - time) / 1000).toFixed(1)} s`
}

/** @param {number} milliseconds */
function duration(milliseconds) {
  const whole = Math.floor(milliseconds / 1000)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** On the machine itself there is a second address to try. */
function showOther(address) {
  const other = { '127.0.0.1': '[::1]', '::1': '127.0.0.1' }[address]
  $('other').hidden = !other
  if (!other) return
  $('other-link').href = `http://${other}:${location.port}`
  show('other-link', `as ${other}`)
}

function show(id, value) {
  setText($(id), value)
}

/** Changes only what differs, for screen readers and selections in progress. */
function setText(element, value) {
  if (element.textContent !== String(value)) element.textContent = value
}

render()
