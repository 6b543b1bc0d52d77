'use strict'

// Certificates of servers, by openssl.

const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

/**
 * Makes a key and a certificate that it signed itself, for localhost: the files `key.pem` and `cert.pem`.
 * @param {string} folder
 * @returns {{ key: string, cert: string }} what is in them
 */
function selfSigned(folder) {
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', 'key.pem']
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
  const args = ['req', '-x509', ...key, ...names, '-days', '2', '-out', 'cert.pem']
  execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' })
  const [made, cert] = ['key.pem', 'cert.pem'].map((file) => fs.readFileSync(path.join(folder, file), 'utf8'))
  return { key: made, cert }
}

module.exports = { selfSigned }
