// Judges the gateway's cache by the public suite of http-tests/cache-tests (https://cache-tests.fyi): starts the suite's origin, the gateway in
// front of it and the suite's client, and prints how many of the required and the optimal tests pass, and which do not.
//
//   git clone https://github.com/http-tests/cache-tests DIR && npm install --omit=dev --prefix DIR
//   node tests/external/cache_suite.mjs DIR target/release/sluice [default|all] [ID]
//
// The release at npm (0.4.5) is older: of some things, such as values of `Age` that can't be read, it expects the opposite.
//
// `all` (what is meant without a word) has everything on that the suite asks about; `default` has an empty `cache = {}`. With an ID, one test is
// run and its exchange is printed. It takes about a minute, so it is not part of CI.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const CACHES = {
  default: 'cache = {}',
  all: `[routes.all.cache]
heuristic = { percent = 10 }
stale_if_error = "1h"
set_cookie = "store"
request_directives = true
normalise = { accept_language = true }`
}

const [suite, gateway, policy = 'all', id = ''] = process.argv.slice(2)
if (!gateway || !CACHES[policy]) {
  console.error('usage: node cache_suite.mjs SUITE GATEWAY [default|all] [ID]')
  process.exit(2)
}

async function freePort () {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function listens (port) {
  for (let attempt = 0; attempt < 500; attempt++) {
    const socket = connect(port, '127.0.0.1')
    const open = await new Promise(resolve => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
    socket.destroy()
    if (open) return
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  throw new Error(`nobody listens at port ${port}`)
}

const engine = existsSync(join(suite, 'test-engine')) ? 'test-engine/' : ''
const folder = mkdtempSync(join(tmpdir(), 'cache-suite-'))
const [origin, edge] = [await freePort(), await freePort()]
writeFileSync(join(folder, 'gateway.toml'), `[listeners.http]
bind = "127.0.0.1:${edge}"
[telemetry]
access_log = "off"
log_level = "error"
[upstreams.origin]
endpoints = ["http://127.0.0.1:${origin}"]
[routes.all]
match = { path = "/**" }
upstream = "origin"
${CACHES[policy]}
`)
const settings = {
  npm_config_protocol: 'http',
  npm_config_port: String(origin),
  npm_config_base: `http://127.0.0.1:${edge}`,
  npm_config_id: id,
  npm_package_config_id: '',
  npm_config_pidfile: join(folder, 'pid')
}
const environment = { ...process.env, ...settings }
const children = []

function start (program, args, options) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], ...options })
  children.push(child)
  return child
}

try {
  start(process.execPath, [`${engine}server/server.mjs`], { cwd: suite, env: environment, stdio: 'ignore' })
  start(resolve(gateway), ['run', '--config', join(folder, 'gateway.toml')], { stdio: 'inherit' })
  await Promise.all([listens(origin), listens(edge)])
  const client = start(process.execPath, ['--no-warnings', `${engine}cli.mjs`], { cwd: suite, env: environment })
  let printed = ''
  client.stdout.on('data', part => { printed += part })
  await once(client, 'close')
  if (id) {
    console.log(printed)
  } else {
    await report(JSON.parse(printed))
  }
} finally {
  children.forEach(child => child.kill())
  rmSync(folder, { recursive: true, force: true })
}

async function report (results) {
  const { default: suites } = await import(pathToFileURL(join(resolve(suite), 'tests/index.mjs')))
  const tests = suites.flatMap(one => one.tests.map(test => ({ ...test, group: one.id })))
  const known = new Map(tests.map(test => [test.id, test]))
  // As the suite counts: a test whose dependencies fail says nothing.
  const counts = test => (test.depends_on ?? []).every(on => known.has(on) && passes(on))
  const passes = id => results[id] === true && counts(known.get(id))
  const setUp = test => !passes(test.id) && results[test.id]?.[0] === 'Setup'
  for (const kind of ['required', 'optimal']) {
    const all = tests.filter(test => (test.kind ?? 'required') === kind && !test.browser_only)
    const failed = all.filter(test => !passes(test.id))
    console.log(`${kind}: ${all.length - failed.length} of ${all.length}`)
    for (const test of failed) {
      const why = !counts(test) ? 'depends on a test that fails' : setUp(test) ? 'can\'t be set up' : 'fails'
      console.log(`  ${test.group} ${test.id}: ${why}: ${results[test.id]?.[1] ?? 'no result'}`)
    }
  }
}
