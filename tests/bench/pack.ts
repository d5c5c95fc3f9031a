/**
 * Quantize and pack a 4096 × 14336 bf16 matrix to int4 (groups of 64) and NF4, one thread, against
 * torch and bitsandbytes on the same core in the same run.
 */
import { openWasm } from "../../src/backends/wasm/mod.ts";
import type { Backend } from "../../src/backend.ts";
import { FORMATS } from "../../src/formats/mod.ts";
import { rtn } from "../../src/methods/rtn.ts";
import { schemeFrom } from "../../src/schemes/options.ts";
import { cpuName, findPython, PythonServer } from "./environment.ts";
import { compare, type Contestant, type Ratio, type Skipped } from "./measure.ts";

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

/** Run it. */
export async function run(rounds = 5): Promise<(Ratio | Skipped)[]> {
  const bytes = matrix();
  await using backend = await openWasm({ threads: 1 });
  const found = await findPython("torch", "bitsandbytes");
  await using peers = "python" in found
    ? await PythonServer.start(found.python, "pack_peers.py", ["--serve"])
    : undefined;
  const theirs = async (what: string) =>
    (await peers!.ask(`run ${what} 1`) as { readonly seconds: number }).seconds;
  const work = bytes.length / 1e9;
  const contestants: Contestant[] = [
    {
      name: "int4 g64",
      work,
      turn: () => quantize("W4A16", { "group-size": 64 }, { backend, bytes }),
    },
    { name: "nf4", work, turn: () => quantize("NF4", {}, { backend, bytes }) },
  ];
  if (peers) {
    contestants.push({ name: "torch", work, turn: () => theirs("int4") });
    contestants.push({ name: "bitsandbytes", work, turn: () => theirs("nf4") });
  }
  const [int4, nf4, torch, bitsandbytes] = await compare(contestants, { rounds });
  const ratios = ([[int4!, torch], [nf4!, bitsandbytes]] as const).map((
    [{ name, rate }, peer],
  ): Ratio => ({
    what: `${name}, quantize and pack ${ROWS} × ${COLUMNS} bf16`,
    ours: `${rate.toFixed(2)} GB/s`,
    ...(peer
      ? { against: `${peer.name}: ${peer.rate.toFixed(2)} GB/s`, ratio: rate / peer.rate, goal: 5 }
      : {}),
    device: cpuName(1),
  }));
  if (peers || !("skipped" in found)) return ratios;
  return [...ratios, { skipped: `torch and bitsandbytes, packing. ${found.skipped}` }];
}
