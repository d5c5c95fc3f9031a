// Makes requests and reads their bodies into rooms that it is lent, for network_thread.ts. A room
// goes back when it is full, at the end, or when none went back for a tenth of the time a server
// may be silent (two tenths at most). Started from a data: URL of this text (no permission needed).
const SCRATCH = 256 * 2 ** 10;
const transfers = new Map();

class Transfer {
  #id;
  #rooms = [];
  /** Ends waiting for a room. */
  #wake;
  #stop = new AbortController();
  #room;
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
    for (const room of this.#rooms) this.#giveBack(room, 0);
    transfers.delete(this.#id);
  }

  lend(room) {
    this.#rooms.push(room);
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
        const room = this.#room ??= await this.#nextRoom();
        const part = value.subarray(taken, taken + room.length - this.#filled);
        room.set(part, this.#filled);
        taken += part.length;
        this.#filled += part.length;
        if (this.#filled === room.length) this.#handOn();
      }
      scratch = new Uint8Array(value.buffer);
    }
  }

  async #nextRoom() {
    while (this.#rooms.length === 0) {
      this.#stop.signal.throwIfAborted();
      await new Promise((wake) => this.#wake = wake);
    }
    return this.#rooms.shift();
  }

  #handOn() {
    if (this.#room) this.#giveBack(this.#room, this.#filled);
    this.#room = undefined;
    this.#filled = 0;
  }

  #giveBack(room, filled) {
    this.#tell({ bytes: room.subarray(0, filled) }, [room.buffer]);
  }

  #tell(message, moved = []) {
    this.#told = performance.now();
    self.postMessage({ id: this.#id, ...message }, moved);
  }
}

self.onmessage = ({ data: { id, open, room, close } }) => {
  if (open) {
    transfers.set(id, new Transfer(id));
    transfers.get(id).run(open);
  }
  const transfer = transfers.get(id);
  if (close) transfer?.close();
  if (!room) return;
  if (transfer) transfer.lend(room);
  else self.postMessage({ id, bytes: room.subarray(0, 0) }, [room.buffer]);
};

/** The innermost reason: causes do not travel between threads. */
function reason(error) {
  while (error.cause instanceof Error) error = error.cause;
  return error.message;
}
