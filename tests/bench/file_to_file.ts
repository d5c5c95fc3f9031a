/**
 * A checkpoint file to a quantized file, against copying the same file: a 512 MB synthetic
 * checkpoint of bf16 linears.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import {
  open,
  openBackend,
  openFolderSink,
  plan,
  recipeFromOptions,
  run as runPlan,
} from "../../mod.ts";
import { layoutFile } from "../../src/containers/safetensors.ts";
import { cpuName } from "./environment.ts";
import { compare, type Ratio } from "./measure.ts";

async function synthetic(folder: string): Promise<{ path: string; size: number }> {
  const tensors = Array.from({ length: 16 }, (_, i) => ({
    name: `layers.${i}.up_proj.weight`,
    dtype: "bf16" as const,
    shape: [4096, 4096],
  }));
  const layout = layoutFile(tensors, { format: "pt" });
  const path = join(folder, "model.safetensors");
  using file = await Deno.open(path, { write: true, createNew: true });
  await file.write(layout.head);
  const block = new Uint16Array(4 * 2 ** 20);
  let state = 1;
  for (let i = 0; i < block.length; i++) {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    // A sign, an exponent near 2^-6 and random mantissa bits.
    block[i] = (state >>> 31) << 15 | (0x3c00 + (state >>> 20 & 0x1ff));
  }
  const bytes = new Uint8Array(block.buffer);
  for (let left = layout.size - layout.head.length; left > 0; left -= bytes.length) {
    for (let at = 0; at < Math.min(left, bytes.length);) at += await file.write(bytes.subarray(at));
  }
  return { path, size: layout.size };
}

/** Run it. */
export async function run(rounds = 5): Promise<Ratio[]> {
  const folder = await Deno.makeTempDir();
  try {
    const { path, size } = await synthetic(folder);
    await using backend = await openBackend("wasm");
    const quantize = async (scheme: string, group?: number) => {
      const out = join(folder, `out-${crypto.randomUUID()}`);
      await using source = await open(path);
      const recipe = recipeFromOptions({ scheme, ...(group ? { "group-size": group } : {}) });
      await using sink = await openFolderSink(out);
      await runPlan(plan(recipe, source, { device: backend }), { source, backend, sink });
      await Deno.remove(out, { recursive: true });
    };
    const work = size / 1e9;
    const rates = await compare([
      {
        name: "copy",
        work,
        turn: async () => {
          const out = join(folder, "copy");
          await Deno.copyFile(path, out);
          using file = await Deno.open(out, { write: true });
          await file.syncData();
          await Deno.remove(out);
        },
      },
      { name: "int4 g64", work, turn: () => quantize("W4A16", 64) },
      { name: "int4 g128", work, turn: () => quantize("W4A16", 128) },
      { name: "nf4", work, turn: () => quantize("NF4") },
    ], { rounds });
    const [copy, ...others] = rates;
    return others.map(({ name, rate }) => ({
      what: `${name}, file to file`,
      ours: `${rate.toFixed(2)} GB/s`,
      against: `copying the file: ${copy!.rate.toFixed(2)} GB/s`,
      ratio: rate / copy!.rate,
      goal: 0.9,
      device: cpuName(availableParallelism()),
    }));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
