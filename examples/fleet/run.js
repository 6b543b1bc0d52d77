'use strict'

// The whole fleet on one machine, until Ctrl+C:
//
//   npm run fleet
//
// PORT: another port than 8080. Root gets hosts that are network namespaces (NAMESPACES=no: not), everybody else
// addresses of loopback.

const { Fleet, missing } = require('./fleet')

const { PORT = '8080', NAMESPACES } = process.env

main()

async function main() {
  const obstacle = missing()
  if (obstacle) {
    console.error(`The fleet cannot start: ${obstacle}`)
    process.exit(1)
  }
  const namespaces = process.getuid?.() === 0 && NAMESPACES !== 'no'
  const fleet = new Fleet({ port: Number(PORT), namespaces })
  fleet.on('log', (line) => console.log(line))
  fleet.on('output', (text, program) => !program.endsWith('redis-server') && process.stderr.write(text))
  let ending = false
  const end = async () => {
    // Ctrl+C under npm may arrive twice.
    if (ending) return
    ending = true
    await fleet.stop()
    process.exit(0)
  }
  for (const name of ['SIGINT', 'SIGTERM']) process.on(name, end)
  try {
    await fleet.start()
  } catch (error) {
    if (!ending) console.error(`The fleet cannot start: ${error.message}`)
    await fleet.stop()
    process.exit(1)
  }
  const where = namespaces ? 'network namespaces' : 'addresses of loopback'
  console.log(`
The chat is at http://localhost:${PORT} (Ctrl+C ends it). Its hosts are ${where}. In another terminal:

  kill -9 ${fleet.hosts[0].primary.pid}        kills the balancer of h1, which is then started again
  kill -USR2 ${process.pid}      restarts all hosts, one after another, with a new version of their program`)
  process.on('SIGUSR2', async () => {
    for (const host of fleet.hosts) await fleet.startHost(host)
  })
}
