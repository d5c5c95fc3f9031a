// Makes requests and reads their bodies into buffers that it is lent, for network_thread.ts. A buffer
// goes back when it is full, at the end, or when none went back for a tenth of the time a server
// may be silent (two tenths at most). Started from a data: URL of this text (no permission needed).
const SCRATCH = 256 * 2 ** 10;
const transfers = new Map();

class Transfer {
  #id;
  #buffers = [];
  /** Ends waiting for a buffer. */
  #wake;
  #stop = new AbortController();
  #buffer;
  #filled = 0;
  #told = performance.now();

  constructor(id) {
    this.#id = id;
  }

  async run({ url, idle, ...init }) {
    // Where silence follows, what came before it must not be lost with the connection.
    const patience = idle / 10;
    const watch = setInterval(() => {
      if (performance.now() - this.#told > patience) this.#handOn();
    }, patience);
    try {
      const answer = await fetch(url, { ...init, redirect: "manual", signal: this.#stop.signal });
      this.#tell({ status: answer.status, headers: [...answer.headers] });
      if (answer.body) await this.#pour(answer.body);
      this.#handOn();
      this.#tell({ end: true });
    } catch (error) {
      this.#handOn();
      this.#tell({ fault: { name: error.name, message: reason(error) } });
    }
    clearInterval(watch);
    for (const buffer of this.#buffers) this.#giveBack(buffer, 0);
    transfers.delete(this.#id);
  }

  lend(buffer) {
    this.#buffers.push(buffer);
    this.#wake?.();
  }

  close() {
    this.#stop.abort();
    this.#wake?.();
  }

  async #pour(body) {
    const reader = body.getReader({ mode: "byob" });
    for (let scratch = new Uint8Array(SCRATCH);;) {
      const { done, value } = await reader.read(scratch);
      if (done) return;
      for (let taken = 0; taken < value.length;) {
        const buffer = this.#buffer ??= await this.#nextBuffer();
        const part = value.subarray(taken, taken + buffer.length - this.#filled);
        buffer.set(part, this.#filled);
        taken += part.length;
        this.#filled += part.length;
        if (this.#filled === buffer.length) this.#handOn();
      }
      scratch = new Uint8Array(value.buffer);
    }
  }

  async #nextBuffer() {
    while (this.#buffers.length === 0) {
      this.#stop.signal.throwIfAborted();
      await new Promise((wake) => this.#wake = wake);
    }
    return this.#buffers.shift();
  }

  #handOn() {
    if (this.#buffer) this.#giveBack(this.#buffer, this.#filled);
    this.#buffer = undefined;
    this.#filled = 0;
  }

  #giveBack(buffer, filled) {
    this.#tell({ bytes: buffer.subarray(0, filled) }, [buffer.buffer]);
  }

  #tell(message, moved = []) {
    this.#told = performance.now();
    self.postMessage({ id: this.#id, ...message }, moved);
  }
}

self.onmessage = ({ data: { id, open, buffer, close } }) => {
  if (open) {
    transfers.set(id, new Transfer(id));
    transfers.get(id).run(open);
  }
  const transfer = transfers.get(id);
  if (close) transfer?.close();
  if (!buffer) return;
  if (transfer) transfer.lend(buffer);
  else self.postMessage({ id, bytes: buffer.subarray(0, 0) }, [buffer.buffer]);
};

/** The innermost reason: causes do not travel between threads. */
function reason(error) {
  while (error.cause instanceof Error) error = error.cause;
  return error.message;
}
