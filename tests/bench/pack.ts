// deno-lint-ignore-file no-console
/**
 * Quantize and pack a 4096 × 14336 bf16 matrix to int4 (groups of 64) and NF4, one thread, against
 * torch and bitsandbytes on the same core in the same run. SLUICE_PEERS_PYTHON names a Python that
 * has them; without it only our own rates are printed.
 */
import { openWasm } from "../../src/backends/wasm/mod.ts";
import type { Backend } from "../../src/backend.ts";
import { FORMATS } from "../../src/formats/mod.ts";
import { rtn } from "../../src/methods/rtn.ts";
import { schemeFrom } from "../../src/schemes/options.ts";
import { compare, type Contestant, formatRatio, type Ratio } from "./measure.ts";

const [ROWS, COLUMNS] = [4096, 14336];

/** Seeded normal-like bf16 values: sums of uniform bytes. */
function matrix(): Uint8Array<ArrayBuffer> {
  const values = new Float32Array(ROWS * COLUMNS);
  let state = 12345;
  for (let i = 0; i < values.length; i++) {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    values[i] = ((state >>> 24) + (state >>> 16 & 255) + (state >>> 8 & 255) - 382.5) / 10000;
  }
  const halves = new Uint16Array(values.buffer);
  const bf16 = new Uint16Array(values.length);
  for (let i = 0; i < bf16.length; i++) bf16[i] = halves[2 * i + 1]!;
  return new Uint8Array(bf16.buffer);
}

async function quantize(name: string, options: Record<string, number>, { backend, bytes }: {
  backend: Backend;
  bytes: Uint8Array<ArrayBuffer>;
}): Promise<void> {
  const scheme = schemeFrom(name, options, { modelDType: "bf16" });
  const info = { name: "w.weight", dtype: "bf16", shape: [ROWS, COLUMNS] } as const;
  const format = FORMATS.find((format) => format.supports(scheme, info) === true)!;
  using outer = backend.scope();
  const packer = format.packer(info, scheme, outer);
  const rows = Math.max(8, Math.floor(backend.sliceBytes / (COLUMNS * 2) / 8) * 8);
  for (let from = 0; from < ROWS; from += rows) {
    const to = Math.min(ROWS, from + rows);
    using scope = backend.scope();
    const weight = scope.alloc("bf16", [to - from, COLUMNS]);
    backend.write(weight, bytes.subarray(from * COLUMNS * 2, to * COLUMNS * 2));
    const request = { names: [info.name], scheme, options: {}, scope, report: () => {} };
    const { quantized } = await (await rtn.open(request)).round({ weight, scope });
    await packer.add(quantized, { from, to });
  }
  await packer.finish();
}

/** A Python process that times a peer when told to. */
class Peer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #rest = "";

  constructor(python: string) {
    const script = new URL("pack_peers.py", import.meta.url).pathname;
    this.#child = new Deno.Command(python, {
      args: [script, "--serve"],
      stdin: "piped",
      stdout: "piped",
    })
      .spawn();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#writer = this.#child.stdin.getWriter();
  }

  /** Seconds that one quantization of the matrix took the peer. */
  async time(what: string, threads: number): Promise<number> {
    await this.#writer.write(new TextEncoder().encode(`run ${what} ${threads}\n`));
    // The first line says that it is ready.
    for (;;) {
      const { seconds } = JSON.parse(await this.#line(what)) as { seconds?: number };
      if (seconds !== undefined) return seconds;
    }
  }

  async #line(what: string): Promise<string> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#lines.read();
      if (done) throw new Error(`The peers' process ended while it timed ${what}`);
      this.#rest += value;
    }
    const [line, ...rest] = this.#rest.split("\n");
    this.#rest = rest.join("\n");
    return line!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writer.close();
    await this.#child.status;
  }
}

/** Run it. */
export async function run(rounds = 5): Promise<Ratio[]> {
  const bytes = matrix();
  await using backend = await openWasm({ threads: 1 });
  const python = Deno.env.get("SLUICE_PEERS_PYTHON");
  await using peer = python ? new Peer(python) : undefined;
  const work = bytes.length / 1e9;
  const contestants: Contestant[] = [
    {
      name: "sluice int4 g64",
      work,
      turn: () => quantize("W4A16", { "group-size": 64 }, { backend, bytes }),
    },
    { name: "sluice nf4", work, turn: () => quantize("NF4", {}, { backend, bytes }) },
  ];
  if (peer) {
    contestants.push({ name: "torch int4 g64", work, turn: () => peer.time("int4", 1) });
    contestants.push({ name: "bitsandbytes nf4", work, turn: () => peer.time("nf4", 1) });
  }
  const rates = await compare(contestants, { rounds });
  const rate = (name: string) => rates.find((one) => one.name === name)?.rate ?? NaN;
  const detail = rates.map(({ name, rate }) => `${name} ${rate.toFixed(3)} GB/s`).join(", ");
  if (!peer) {
    return [{
      what: "int4 g64 quantize + pack, GB/s of bf16",
      ratio: rate("sluice int4 g64"),
      detail,
    }];
  }
  return [
    {
      what: "int4 g64 quantize + pack / torch, one thread",
      ratio: rate("sluice int4 g64") / rate("torch int4 g64"),
      goal: 5,
      detail,
    },
    {
      what: "nf4 quantize + pack / bitsandbytes, one thread",
      ratio: rate("sluice nf4") / rate("bitsandbytes nf4"),
      goal: 5,
      detail,
    },
  ];
}

if (import.meta.main) {
  for (const ratio of await run()) console.log(formatRatio(ratio));
}
