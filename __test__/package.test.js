'use strict'

// What users install: the packed files, in an empty project, on a machine without Rust.

const assert = require('node:assert/strict')
const { execFileSync, spawn, spawnSync } = require('node:child_process')
const { createHash } = require('node:crypto')
const { once } = require('node:events')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { after, test } = require('node:test')

const { PLATFORMS, libc, platformOf } = require('../lib/addon')
const { version, engines, homepage, license } = require('../package.json')
const { SBOM, binaryName, mainManifest, packageName, platformManifest } = require('../npm/manifests')
const { request, until } = require('./support/client')
const { blocksOf, headingsOf, slug } = require('./support/markdown')

const ROOT = path.join(__dirname, '..')
const PLATFORM = platformOf({ ...process, libc })

const temporary = fs.mkdtempSync(path.join(os.tmpdir(), 'sticky-listen-'))
after(() => fs.rmSync(temporary, { recursive: true, force: true }))
const within = (file) => path.join(temporary, file)
const tarball = (suffix) => within(`dist/sticky-listen${suffix}-${version}.tgz`)

// A PATH with Node and npm and nothing else, and no network.
const bin = within('bin')
fs.mkdirSync(bin)
fs.symlinkSync(process.execPath, path.join(bin, 'node'))
fs.symlinkSync(fs.realpathSync(execFileSync('which', ['npm'], { encoding: 'utf8' }).trim()), path.join(bin, 'npm'))
const env = { HOME: temporary, PATH: bin, npm_config_offline: 'true' }

function run(program, args, cwd) {
  return execFileSync(program, args, { cwd: within(cwd), env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Installs these packages, and no others, into an empty project. */
function install(project, ...args) {
  fs.mkdirSync(within(project))
  fs.writeFileSync(within(`${project}/package.json`), '{ "private": true }')
  run('npm', ['install', '--no-audit', '--no-fund', ...args], project)
}

execFileSync(process.execPath, [path.join(ROOT, 'npm', 'package.js'), '--out', within('dist'), PLATFORM])
install('project', tarball(''), tarball(`-${PLATFORM}`))
// Users have it from the registry.
fs.cpSync(path.join(ROOT, 'node_modules', 'recluster'), within('project/node_modules/recluster'), { recursive: true })

const contents = (archive) =>
  execFileSync('tar', ['-tzf', archive], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((file) => file.replace('package/', ''))
    .sort()

test('the packages have these files and no others', () => {
  const own = ['LICENSE', 'README.md', 'index.d.ts', 'index.js', 'native.js', 'package.json', SBOM]
  const lib = execFileSync('git', ['ls-files', 'lib'], { cwd: ROOT, encoding: 'utf8' }).trim().split('\n')
  assert.deepEqual(contents(tarball('')), [...own, ...lib].sort())
  assert.deepEqual(contents(tarball(`-${PLATFORM}`)), [
    'LICENSE',
    'README.md',
    'package.json',
    SBOM,
    binaryName(PLATFORM),
  ])
})

test('npm pack, whose package would have no binary, is refused where the repository is', () => {
  const { status, stderr } = spawnSync('npm', ['pack', '--dry-run'], { cwd: ROOT, encoding: 'utf8' })
  assert.notEqual(status, 0)
  assert.match(stderr, /^A package of this folder would lack its binary\. Run: npm run package$/m)
})

test('every link in a package leads to a page of the repository, or elsewhere', () => {
  const pages = `${homepage.replace(/#.*/, '')}/blob/main/`
  let count = 0
  for (const name of ['sticky-listen', packageName(PLATFORM)]) {
    const folder = within(`project/node_modules/${name}`)
    for (const file of fs.readdirSync(folder, { encoding: 'utf8', recursive: true })) {
      if (!/\.(md|js|ts)$/.test(file)) continue
      const text = fs.readFileSync(path.join(folder, file), 'utf8')
      // Of Markdown and of JSDoc.
      for (const [, inPage, inCode] of text.matchAll(/\]\(([^)\s]+)\)|@see (\S+)/g)) {
        const target = inPage ?? inCode
        assert.match(target, /^https:/, file)
        if (!target.startsWith(pages)) continue
        const [page, anchor] = target.slice(pages.length).split('#')
        assert.ok(fs.existsSync(path.join(ROOT, page)), `${file}: ${target}`)
        if (anchor)
          assert.ok(
            headingsOf(page).some(({ text }) => slug(text) === anchor),
            `${file}: ${target}`,
          )
        count++
      }
    }
  }
  assert.ok(count > 10, `${count}`)
})

test('an archive depends neither on when it was packed nor on the umask', () => {
  const script = "process.umask(0o077); require('./npm/package')"
  execFileSync(process.execPath, ['-e', script, '--', '--out', within('again'), PLATFORM], { cwd: ROOT })
  for (const suffix of ['', `-${PLATFORM}`]) {
    const first = tarball(suffix)
    const again = path.join(within('again'), path.basename(first))
    assert.ok(fs.readFileSync(first).equals(fs.readFileSync(again)), `${first} differs`)
  }
})

/** What an installed package says it consists of. */
function sbomOf(name) {
  const text = fs.readFileSync(within(`project/node_modules/${name}/${SBOM}`), 'utf8')
  assert.doesNotMatch(text, /timestamp|serialNumber/)
  assert.ok(!text.includes(ROOT))
  const sbom = JSON.parse(text)
  assert.deepEqual([sbom.bomFormat, sbom.specVersion, sbom.version], ['CycloneDX', '1.6', 1])
  const { component } = sbom.metadata
  assert.deepEqual([component.name, component.version, component.purl], [name, version, `pkg:npm/${name}@${version}`])
  const parts = [component, ...(component.components ?? []), ...sbom.components]
  const refs = parts.map((part) => part['bom-ref'])
  assert.equal(new Set(refs).size, refs.length)
  assert.deepEqual(sbom.dependencies.map(({ ref }) => ref).sort(), refs.sort())
  for (const { dependsOn } of sbom.dependencies) for (const ref of dependsOn) assert.ok(refs.includes(ref), ref)
  for (const { name, version, licenses, hashes = [] } of sbom.components) {
    assert.ok(name && version)
    assert.match(licenses[0].expression, /^[\w.()-]+( (AND|OR) [\w.()-]+)*$/)
    for (const { alg, content } of hashes) assert.ok(alg === 'SHA-256' && /^[0-9a-f]{64}$/.test(content))
  }
  return sbom
}

test('each package says what is in it: the binary, by its hash, and all that it was made of', () => {
  const main = sbomOf('sticky-listen')
  assert.deepEqual(main.components.map(({ name }) => name).sort(), PLATFORMS.map(packageName).sort())

  const { metadata, components } = sbomOf(packageName(PLATFORM))
  const [binary] = metadata.component.components
  const installed = fs.readFileSync(within(`project/node_modules/${packageName(PLATFORM)}/${binaryName(PLATFORM)}`))
  const content = createHash('sha256').update(installed).digest('hex')
  assert.deepEqual([binary.name, binary.hashes], [binaryName(PLATFORM), [{ alg: 'SHA-256', content }]])
  // That it is all of them: sbom.test.js.
  const cargo = fs.readFileSync(path.join(ROOT, 'Cargo.toml'), 'utf8')
  const [dependencies] = cargo.split('[dependencies]\n')[1].split('\n\n')
  const crates = [...dependencies.matchAll(/^([\w-]+) = /gm)].map(([, name]) => name)
  assert.ok(crates.length >= 10)
  for (const name of crates) assert.ok(components.find((component) => component.name === name)?.purl, name)
})

test('nothing runs at an installation, and nothing could be built', () => {
  for (const program of ['cargo', 'rustc', 'cc'])
    assert.throws(() => run(program, ['--version'], '.'), { code: 'ENOENT' })
  for (const manifest of [mainManifest(), ...PLATFORMS.map(platformManifest)]) {
    assert.equal(manifest.scripts, undefined)
    assert.equal(manifest.dependencies, undefined)
  }
})

test('the main package wants each platform in its own version', () => {
  const { optionalDependencies } = mainManifest()
  assert.deepEqual(
    optionalDependencies,
    Object.fromEntries(
      PLATFORMS.map((platform) => [platformManifest(platform).name, platformManifest(platform).version]),
    ),
  )
  const { os, cpu, libc, ...rest } = platformManifest('linux-arm64-musl')
  assert.deepEqual([os, cpu, libc], [['linux'], ['arm64'], ['musl']])
  assert.deepEqual([rest.version, rest.engines, rest.license], [version, engines, license])
  assert.equal(platformManifest('darwin-x64').libc, undefined)
})

/** A program of a page of the documentation, one that has these words if there are several. */
function program(page, file, words = '') {
  const is = ({ directive, text }) => directive?.kind === 'file' && directive.value === file && text.includes(words)
  return blocksOf(page).find(is).text
}

for (const [page, manager] of [
  ['README.md', 'node:cluster'],
  ['docs/getting-started.md', 'recluster'],
]) {
  test(`the programs of ${page} run: ${manager}`, async (t) => {
    const primary = program(page, 'cluster.js', `require('${manager}')`)
    fs.writeFileSync(within('project/primary.js'), primary.replace('8081', '0'))
    fs.writeFileSync(within('project/server.js'), program(page, 'server.js'))

    // A group of its own, so that one signal ends all of it.
    const child = spawn('node', ['--require', path.join(__dirname, 'fixtures', 'report-port.js'), 'primary.js'], {
      cwd: within('project'),
      env,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (text) => {
        output += text
      })
    }
    const closed = once(child, 'close')
    t.after(async () => {
      if (child.exitCode === null) process.kill(-child.pid, 'SIGKILL')
      await closed
    })

    // It listens at some time, and then its workers do; a client may move while more of them come.
    const worker = await until(async () => {
      assert.equal(child.exitCode, null, output)
      const port = /^port (\d+)$/m.exec(output)?.[1]
      if (!port) return false
      const answers = new Set()
      for (let n = 0; n < 20; n++) {
        const { status, body } = await request(port)
        answers.add(status === 200 && body)
      }
      return answers.size === 1 && [...answers][0]
    })
    assert.match(worker, /^worker \d+\n$/)
  })
}

test('a module imports it by names', () => {
  const code = `
    import sticky, { Balancer, createBalancer, listen, proxyAddress } from 'sticky-listen'
    console.log(Object.entries({ Balancer, createBalancer, listen, proxyAddress }).map(([name, it]) => sticky[name] === it).join())`
  assert.equal(run('node', ['--input-type=module', '-e', code], 'project'), 'true,true,true,true\n')
})

test('package.json can be required, what is internal cannot', () => {
  const code = `
    console.log(require('sticky-listen/package.json').version)
    try { require('sticky-listen/native') } catch ({ code }) { console.log(code) }`
  assert.equal(run('node', ['-e', code], 'project'), `${version}\nERR_PACKAGE_PATH_NOT_EXPORTED\n`)
})

for (const [module, resolution] of [
  ['node16', 'node16'],
  ['esnext', 'bundler'],
]) {
  test(`TypeScript finds its types: ${resolution}`, () => {
    fs.copyFileSync(path.join(__dirname, 'fixtures', 'user.mts'), within('project/user.mts'))
    const tsc = path.join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
    const types = path.join(ROOT, 'node_modules', '@types')
    run(
      'node',
      [
        tsc,
        '--noEmit',
        '--strict',
        '--exactOptionalPropertyTypes',
        '--module',
        module,
        '--moduleResolution',
        resolution,
        '--typeRoots',
        types,
        '--types',
        'node',
        'user.mts',
      ],
      'project',
    )
  })
}

test('without optional dependencies it says what is missing', () => {
  install('bare', '--omit=optional', tarball(''))
  const code = "try { require('sticky-listen') } catch ({ code, message }) { console.log(code, message) }"
  const output = run('node', ['-e', code], 'bare')
  assert.ok(output.startsWith(`ERR_STICKY_NO_BINARY `), output)
  assert.ok(output.includes(`sticky-listen-${PLATFORM}`), output)
})
