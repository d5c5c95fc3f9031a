/**
 * A signal ends what solves with a wide matrix before it is done, wherever the matrix lies. Ops are
 * counted, not seconds.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { setImmediate } from "node:timers";
import type { Backend, MatrixPlaces } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { disk } from "../src/io/disk.ts";
import { gptq } from "../src/methods/gptq.ts";
import { Statistics } from "../src/observer.ts";
import { gram } from "../src/observers/gram.ts";
import type { Scheme } from "../src/scheme.ts";
import { gaussian } from "./conformance/given.ts";
import { folder, withOwn } from "./run_given.ts";

const COLUMNS = 2048;
const [TOKENS, ROWS] = [64, 8];

const PLACES: Readonly<Record<string, MatrixPlaces>> = {
  "inside": { outsideBytes: Infinity },
  "outside": { outsideBytes: 1 },
  "on disk": { outsideBytes: 1, diskBytes: 1 },
};

/** Observe, factor and round a weight by a Gram matrix of eight panels. */
async function solve(backend: Backend, signal?: AbortSignal): Promise<void> {
  using scope = backend.scope();
  const filled = (rows: number) => {
    const x = scope.alloc("f32", [rows, COLUMNS]);
    const values = Float32Array.from(gaussian(rows * COLUMNS, rows));
    backend.write(x, new Uint8Array(values.buffer));
    return x;
  };
  const observation = gram.open({ channels: COLUMNS, tokens: TOKENS, scope, signal });
  await observation.add(filled(TOKENS));
  const results = new Map([[gram, await observation.finish()]]);
  const scheme: Scheme = {
    kind: "int",
    bits: 4,
    grid: "affine",
    activations: "none",
    strategy: { kind: "group", size: 64 },
    scaleDType: "f32",
  };
  const rounder = await gptq.open({
    names: ["w"],
    scheme,
    options: { sweeps: 1 },
    statistics: new Statistics(results, { channels: COLUMNS, tokens: TOKENS }),
    scope,
    report: () => {},
    signal,
  });
  await rounder.round({ weight: filled(ROWS), scope });
}

/** Ops by which parts of the work are known. */
const PARTS = ["mirror", "permute_gram", "factor_block", "gptq_block", "descend_block"];

for (const [where, places] of Object.entries(PLACES)) {
  Deno.test(`a signal ends each part of a solve with matrices ${where} before it is done`, async () => {
    await using spill = await folder();
    await using wasm = await openWasm({ threads: 2 });
    let files = 0;
    using _ = wasm.placeMatrices!(
      places,
      (bytes) => disk.openScratch(join(spill.path, `${files++}`), bytes),
    );
    /** How often ops run: in all, or if it is ended once a part has begun. */
    const runsOf = async (part?: string): Promise<Record<string, number>> => {
      const controller = new AbortController();
      const runs: Record<string, number> = {};
      const backend = withOwn(wasm, {
        maxTensorBytes: COLUMNS * 256 * 4,
        run(op, tensors, scalars) {
          wasm.run(op, tensors, scalars);
          runs[op.name] = (runs[op.name] ?? 0) + 1;
          if (op.name === part && runs[part] === 1) {
            // Heard of only when the event loop turns, as Ctrl-C is.
            setImmediate(() => controller.abort(new Error("Enough")));
          }
        },
      });
      const solving = solve(backend, controller.signal);
      if (part) await assert.rejects(solving, { message: "Enough" });
      else await solving;
      // Of matrices on disk no file is left.
      assert.deepEqual([...Deno.readDirSync(spill.path)], []);
      return runs;
    };
    const whole = await runsOf();
    for (const part of PARTS) {
      const [all, some] = [whole[part]!, (await runsOf(part))[part]!];
      assert.ok(some < all, `${part}: ${some} of ${all}`);
    }
    assert.equal(files > 0, places.diskBytes !== undefined);
  });
}
