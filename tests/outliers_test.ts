/**
 * The threshold of outliers from data: against exact quantiles, from the library to the file that
 * loaders read.
 */
import assert from "node:assert/strict";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { RequestError, UnsupportedError } from "../src/errors.ts";
import { outlierThreshold, withThreshold } from "../src/calibration/outliers.ts";
import { modelOf } from "../src/plan/model.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorSource } from "../src/source.ts";
import { LoadedBlock } from "../src/forward/loaded_block.ts";
import { ModelTables } from "../src/forward/tables.ts";
import { walk, walkBlock } from "../src/forward/walk.ts";
import { originalWeights } from "../src/forward/weights.ts";
import { graphsOf } from "../src/graph/block_graph.ts";
import { quantizeTasks } from "../src/plan/tasks.ts";
import { inFolder, sluice } from "./cli/host.ts";
import { convolutionalTensors, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";
import { onEveryBackend } from "./present.ts";
import { withOwn } from "./run_given.ts";

const WINDOWS = [0, 1, 2].map((w) =>
  Uint32Array.from({ length: 24 }, (_, i) => (i * 11 + w * 37) % 96)
);

/** A tiny Llama whose norms are `gain` times as large. */
async function tiny(gain: number): Promise<string> {
  return await makeCheckpoint(tinyTensors("f32"), {
    config: { ...TINY_CONFIG, torch_dtype: "float32" },
    change(name, bytes) {
      if (!name.includes("layernorm")) return;
      const values = new Float32Array(bytes.buffer);
      values.forEach((value, i) => values[i] = gain * value);
    },
  });
}

/** Magnitudes of all inputs of linears, ascending: each window whole through each block. */
async function magnitudes(source: TensorSource): Promise<Float32Array> {
  await using backend = referenceBackend();
  const model = modelOf(source);
  const weights = originalWeights(source);
  using scope = backend.scope();
  const tables = new ModelTables(model, { tokens: 24, scope });
  const table = new Float32Array((await source.read(model.embedding.table)).buffer);
  const seen: Float32Array[] = [];
  for (const ids of WINDOWS) {
    let x = scope.alloc("f32", [24, 64]);
    const rows = [...ids].flatMap((id) => [...table.subarray(id * 64, (id + 1) * 64)]);
    backend.write(x, new Uint8Array(Float32Array.from(rows).buffer));
    for (const graph of graphsOf(model)) {
      const tensors = await LoadedBlock.load(graph, weights, { scope });
      const forward = { scope, tensors, tables };
      for (const { at, input } of graph.stages) {
        const given = [[graph.block.input, x]] as const;
        const states = walk(graph, { from: 0, to: at }, { given, forward });
        const [bytes] = await backend.read(states.get(input));
        seen.push(new Float32Array(bytes!.buffer).map(Math.abs));
      }
      x = walkBlock(graph, x, forward);
    }
  }
  const all = new Float32Array(seen.reduce((n, { length }) => n + length, 0));
  let at = 0;
  for (const part of seen) {
    all.set(part, at);
    at += part.length;
  }
  return all.sort();
}

for (const gain of [1, 20, 400]) {
  const folder = await tiny(gain);
  const quantiles = [0.5, 0.9, 0.999, 1];
  await using source = await openCheckpoint(folder);
  const sorted = await magnitudes(source);
  onEveryBackend(
    `outlierThreshold() is the quantile, rounded up, with norms ${gain} times as large`,
    async (backend) => {
      await using source = await openCheckpoint(folder);
      for (const quantile of quantiles) {
        const found = await outlierThreshold(source, {
          backend,
          calibration: { windows: WINDOWS, stateBudget: 1e9 },
          quantile,
        });
        const right = sorted[Math.ceil(quantile * sorted.length) - 1]!;
        const step = right / 512 + 0.001;
        // What a backend computes is off in the last places, and may be so across the edge of a
        // bin.
        const slack = 1e-4 * right + 1e-5;
        assert.ok(
          found >= right - slack && found <= right + step + slack,
          `${quantile}: ${found}, not ${right}`,
        );
        assert.equal(found, Number(found.toFixed(3)), "more decimals than it may have");
      }
    },
  );
  Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));
}

Deno.test("outlierThreshold() refuses what cannot be run, and shares that are none", async () => {
  await using backend = referenceBackend();
  const calibration = { windows: WINDOWS, stateBudget: 1e9 };
  const folder = await makeCheckpoint(convolutionalTensors());
  try {
    await using source = await openCheckpoint(folder);
    await assert.rejects(
      outlierThreshold(source, { backend, calibration, quantile: 0.9 }),
      (error) =>
        error instanceof UnsupportedError &&
        /outliers of .* cannot run it: it has no config\.json.*Give `threshold`/.test(
          error.message,
        ),
    );
    for (const quantile of [0, -1, 1.5, NaN]) {
      await assert.rejects(
        outlierThreshold(source, { backend, calibration, quantile }),
        RangeError,
      );
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("outlierThreshold() refuses activations that are not finite", async () => {
  await using backend = referenceBackend();
  const folder = await tiny(Infinity);
  try {
    await using source = await openCheckpoint(folder);
    const calibration = { windows: WINDOWS, stateBudget: 1e9 };
    await assert.rejects(
      outlierThreshold(source, { backend, calibration, quantile: 0.9 }),
      (error) => error instanceof UnsupportedError && /NaN or infinite/.test(error.message),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("outlierThreshold() reports its steps, and stops at a signal", async () => {
  const folder = await tiny(1);
  try {
    await using wasm = await openWasm({ threads: 1 });
    const backend = withOwn(wasm, { productRows: 1 });
    await using source = await openCheckpoint(folder);
    const calibration = { windows: WINDOWS, stateBudget: 1e9 };
    const stop = new AbortController();
    const steps: number[] = [];
    const walk = outlierThreshold(source, {
      backend,
      calibration,
      quantile: 0.9,
      signal: stop.signal,
      report(event) {
        if (event.type !== "advanced") return;
        steps.push(event.done);
        assert.equal(event.total, 3 * 2 * 5);
        if (event.done === 7) stop.abort(new Error("enough"));
      },
    });
    await assert.rejects(walk, /enough/);
    assert.deepEqual(steps, [1, 2, 3, 4, 5, 6, 7]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a recipe with a quantile must be settled before it is planned, and then has a threshold", async () => {
  const recipe = recipeFromOptions({ scheme: "LLM_INT8", "outlier-quantile": "0.99" });
  assert.equal(recipe.outlierQuantile, 0.99);
  const folder = await tiny(1);
  try {
    await using source = await openCheckpoint(folder);
    const device = referenceBackend();
    assert.throws(
      () => plan(recipe, source, { device }),
      (error) => error instanceof UnsupportedError && /must be found first/.test(error.message),
    );
    const work = plan(withThreshold(recipe, 4.25), source, { device });
    const thresholds = quantizeTasks(work.units).map(({ scheme }) =>
      scheme.kind === "llm_int8" ? scheme.threshold : undefined
    );
    assert.deepEqual(thresholds, new Array(14).fill(4.25));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("--outlier-quantile is refused with other schemes, beside --threshold, and out of range", () => {
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ scheme: "W8A8", "outlier-quantile": 0.9 }, /threshold of LLM_INT8, and no weight becomes/],
    [
      { scheme: "LLM_INT8", threshold: 5, "outlier-quantile": 0.9 },
      /`threshold` and `outlier-quantile` together/,
    ],
    [{ scheme: "LLM_INT8", "outlier-quantile": 1.5 }, /a number from 0\.5 to 1/],
    [{ scheme: "LLM_INT8", "outlier-quantile": 0.1 }, /a number from 0\.5 to 1/],
  ];
  for (const [options, pattern] of wrong) {
    assert.throws(
      () => recipeFromOptions(options),
      (error) => error instanceof RequestError && pattern.test(error.message),
    );
  }
  const text = "outlier_quantile: 0.9\nrules: [{match: '*.down_proj', scheme: LLM_INT8}]";
  const recipe = withThreshold(parseRecipe(text, "r.yaml"), 3);
  assert.deepEqual(recipe.rules.map(({ options }) => options), [{ threshold: 3 }]);
});

/** The threshold that a line of progress speaks of. */
function told(err: string): number {
  const [, number] =
    /^sluice: outliers from (\d+(?:\.\d+)?) on: 99\.9 % of the activations are smaller$/m
      .exec(err) ?? [];
  assert.ok(number, err);
  return Number(number);
}

Deno.test("quantize and plan find the threshold, say it, and write it where loaders look", () =>
  inFolder(async (folder) => {
    const words = [
      ...["sample", "--scheme", "LLM_INT8", "--outlier-quantile", "0.999"],
      ...["--num-samples", "2", "--seq-len", "64", "--calibration", "sample", "--device", "wasm"],
    ];
    const planned = await sluice(["plan", ...words]);
    assert.equal(planned.code, 0, planned.err);
    const threshold = told(planned.err);
    assert.ok(threshold > 1 && threshold < 40, `${threshold}`);
    assert.ok(planned.out.includes(`outliers from ${threshold}`), planned.out);
    const done = await sluice(["quantize", ...words, "--output", `${folder}/out`]);
    assert.equal(done.code, 0, done.err);
    assert.equal(told(done.err), threshold);
    const config = JSON.parse(await Deno.readTextFile(`${folder}/out/config.json`));
    assert.equal(config.quantization_config.llm_int8_threshold, threshold);
    // Under a budget of memory hidden states go to disk, in bf16.
    const tight = await sluice([
      ...["quantize", ...words, "--output", `${folder}/tight`, "--max-ram", "600MB"],
    ]);
    assert.equal(tight.code, 0, tight.err);
    assert.ok(Math.abs(told(tight.err) - threshold) < 0.1 * threshold);
    const full = [...words, "--max-ram", "600MB", "--max-disk", "1kB"];
    const refused = await sluice(["plan", ...full]);
    assert.equal(refused.code, 1);
    assert.match(refused.err, /--max-disk: \S+ \wB of .* find the outliers\. Give --max-disk \d+/);
    const quiet = await sluice(["quantize", ...words, "--output", `${folder}/quiet`, "--quiet"]);
    assert.deepEqual([quiet.code, quiet.err], [0, ""]);
  }));

Deno.test("a model without a tokenizer, and one that cannot be run, are told to give a threshold", () =>
  inFolder(async (folder) => {
    const quantize = async (name: string, made: string) => {
      await Deno.rename(made, `${folder}/${name}`);
      return await sluice([
        ...["quantize", `${folder}/${name}`, "--scheme", "LLM_INT8", "--outlier-quantile", "0.99"],
        ...["--output", `${folder}/out`, "--device", "wasm"],
      ]);
    };
    const mute = await quantize("mute", await tiny(1));
    assert.match(mute.err, /no tokenizer\.json.*give --threshold in place of --outlier-quantile/);
    const foreign = await quantize("foreign", await makeCheckpoint(convolutionalTensors()));
    assert.match(foreign.err, /because Sluice cannot run it.*Give --threshold/);
    assert.deepEqual([mute.code, foreign.code], [1, 1]);
  }));
