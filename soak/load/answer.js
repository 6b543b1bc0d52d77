'use strict'

// Reads one response of HTTP/1 after another from what a connection says.

class Answers {
  #bytes = Buffer.alloc(0)

  /** @param {Buffer} chunk */
  push(chunk) {
    this.#bytes = Buffer.concat([this.#bytes, chunk])
  }

  /** Whether nothing of a further response has come. */
  get isEmpty() {
    return this.#bytes.length === 0
  }

  /**
   * The next response, once it is whole; one without a length is whole when the connection has ended.
   * @param {boolean} ended
   * @returns {{ status: number, headers: Map<string, string>, body: string } | undefined}
   */
  take(ended) {
    const end = this.#bytes.indexOf('\r\n\r\n')
    if (end === -1) return
    const [first, ...lines] = this.#bytes.toString('latin1', 0, end).split('\r\n')
    const headers = new Map(
      lines.map((line) => {
        const colon = line.indexOf(':')
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
      }),
    )
    const length = headers.get('content-length')
    if (length === undefined && !ended) return
    const whole = length === undefined ? this.#bytes.length : end + 4 + Number(length)
    if (this.#bytes.length < whole) return
    const body = this.#bytes.toString('utf8', end + 4, whole)
    this.#bytes = this.#bytes.subarray(whole)
    return { status: Number(first.split(' ')[1]), headers, body }
  }
}

module.exports = { Answers }
