/** Which weights share a scale: blocks, columns, the lecture's 3 × 3 example; and what each brings. */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { UnsupportedError } from "../src/errors.ts";
import { prepareWindows } from "../src/windows.ts";
import { formatNamed } from "../src/formats/mod.ts";
import { granularity } from "../src/granularity.ts";
import { GRANULARITY_FILES, granularityFiles } from "../src/granularity/page.ts";
import { open } from "../src/open.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { recordedWindows } from "../src/report/record.ts";
import type { IntScheme, Strategy } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { schemeFrom } from "../src/schemes/options.ts";
import { openNowhere } from "../src/sinks/nowhere.ts";
import { onEveryBackend } from "./present.ts";

function int4(strategy: Strategy): IntScheme {
  return {
    kind: "int",
    bits: 4,
    grid: "restricted",
    strategy,
    scaleDType: "f32",
    activations: "none",
  };
}

/** Scales and codes of a matrix by rows. */
const EXAMPLE = [[1, -2, 3], [4, 5, -6], [7, 0, 9]];

/**
 * The lecture's example: a matrix of 3 × 3 in blocks of 2 × 2 has four of them, and those at the
 * right and lower edges are smaller. A scale is the largest magnitude of its block by 7, the largest
 * code; every weight is divided by the scale of its block and rounded.
 */
onEveryBackend(
  "3 × 3 weights in blocks of 2 × 2 have four scales, the blocks at the edges being smaller",
  async (backend) => {
    const cases: [Strategy, scales: number[], shape: number[], codes: number[][]][] = [
      [
        { kind: "block", rows: 2, columns: 2 },
        // |1 −2; 4 5|, |3; −6|, |7 0|, |9|
        [5 / 7, 6 / 7, 7 / 7, 9 / 7],
        [2, 2],
        // 1/(5/7) = 1.4 → 1, −2 → −2.8 → −3, 4 → 5.6 → 6, 5 → 7; 3 → 3.5 → 4 (to even), −6 → −7; …
        [[1, -3, 4], [6, 7, -7], [7, 0, 7]],
      ],
      // A scale per column: the largest of each is 7, 5, 9.
      [
        { kind: "block", rows: 0, columns: 1 },
        [7 / 7, 5 / 7, 9 / 7],
        [1, 3],
        [[1, -3, 2], [4, 7, -5], [7, 0, 7]],
      ],
      // Two rows and all columns.
      [
        { kind: "block", rows: 2, columns: 0 },
        [6 / 7, 9 / 7],
        [2, 1],
        [[1, -2, 4], [5, 6, -7], [5, 0, 7]],
      ],
    ];
    for (const [strategy, scales, shape, codes] of cases) {
      using scope = backend.scope();
      const weight = scope.alloc("f32", [3, 3]);
      backend.write(weight, new Uint8Array(Float32Array.from(EXAMPLE.flat()).buffer));
      const scheme = int4(strategy);
      const kind = schemeKind(scheme);
      assert.equal(kind.check(scheme, [3, 3]), true);
      const quantized = await kind.quantize(scheme, weight, { scope, search: "minmax" });
      const [found, scale, back] = await backend.read(
        quantized.tensors.codes!,
        quantized.tensors.scale!,
        kind.dequantize(quantized, scope),
      );
      assert.deepEqual(quantized.tensors.scale!.shape, shape);
      assert.deepEqual([...new Float32Array(scale!.buffer)], scales.map(Math.fround));
      assert.deepEqual([...new Int8Array(found!.buffer)], codes.flat(), JSON.stringify(strategy));
      const [down, across] = [
        strategy.kind === "block" && strategy.rows || 3,
        strategy.kind === "block" && strategy.columns || 3,
      ];
      const values = codes.flatMap((row, r) =>
        row.map((code, c) => {
          const tile = Math.floor(r / down) * Math.ceil(3 / across) + Math.floor(c / across);
          return Math.fround(code * Math.fround(scales[tile]!));
        })
      );
      assert.deepEqual([...new Float32Array(back!.buffer)], values);
    }
  },
);

Deno.test("a scale per column is asked for as 0x1, is cut nowhere, and is held by plain alone", () => {
  const dtypes = { modelDType: "bf16", scaleDType: undefined } as const;
  const scheme = schemeFrom("W4A16", { "block-structure": "0x1" }, dtypes) as IntScheme;
  assert.deepEqual(scheme.strategy, { kind: "block", rows: 0, columns: 1 });
  const kind = schemeKind(scheme);
  assert.equal(kind.label(scheme), "int4, per column, symmetric");
  assert.equal(kind.rowStep(scheme, [40, 24]), 40);
  const weight = { name: "a.weight", dtype: "bf16", shape: [40, 24] } as const;
  assert.match(String(formatNamed("compressed-tensors").supports(scheme, weight)), /per column/);
  assert.equal(formatNamed("plain").supports(scheme, weight), true);
  assert.throws(() => schemeFrom("W4A16", { "block-structure": "0x" }, dtypes), /64x64 or 0x1/);
});

Deno.test("granularity() measures what each brings: bits rise, errors fall, and nothing is kept", async () => {
  await using source = await open("sample");
  await using backend = await openWasm({ threads: 2 });
  const windows = await prepareWindows(source, { seqLen: 64, numSamples: 2 });
  const found = await granularity(source, {
    backend,
    evaluation: windows,
    request: requestOf(windows),
  });
  const row = (name: string) => found.rows.find((row) => row.name === name)!;
  assert.deepEqual(found.rows.map(({ name }) => name), [
    ...["per tensor", "blocks of 64×64", "per row", "per column"],
    ...["groups of 256", "groups of 128", "groups of 64", "groups of 32"],
  ]);
  assert.deepEqual(found.refused, []);
  assert.equal(row("groups of 64").bits, 4 + 16 / 64);
  assert.equal(row("blocks of 64×64").bits, 4 + 16 / 64 ** 2);
  assert(row("per tensor").sqnrDb < row("per row").sqnrDb);
  assert(row("per row").sqnrDb < row("groups of 64").sqnrDb);
  assert(row("groups of 64").sqnrDb < row("groups of 32").sqnrDb);
  assert(row("per tensor").divergence > row("groups of 32").divergence);
  for (const { perplexity, divergence, seconds } of found.rows) {
    assert(Math.abs(perplexity / found.perplexity - 1) < 0.5 && divergence > 0 && seconds > 0);
  }
  const evaluation = recordedWindows(requestOf(windows), windows);
  const files = await granularityFiles(found, { generator: "sluice test", evaluation });
  assert.deepEqual(Object.keys(files).sort(), GRANULARITY_FILES.toSorted());
  assert.equal(files["granularity.csv"].trim().split("\n").length, 9);
  const written = JSON.parse(files["granularity.json"]);
  assert.equal(written.rows.length, 8);
  assert.deepEqual(written.evaluation, evaluation);
  assert.equal(files["granularity.html"].match(/<figure>/g)!.length, 3);
});

Deno.test("a sink that keeps nothing takes no more bytes than were planned", async () => {
  await using sink = openNowhere();
  await using file = await sink.create("a", 4);
  await file.write(1, new Uint8Array(3));
  assert.throws(() => file.write(2, new Uint8Array(3)), RangeError);
});

Deno.test("a plan of a granularity that no format holds says so", async () => {
  await using source = await open("sample");
  await using device = await openWasm({ threads: 1 });
  const recipe = recipeFromOptions({ scheme: "W4A16", method: "rtn", "block-structure": "0x1" });
  assert.throws(
    () => plan(recipe, source, { device }),
    (error: Error) =>
      error instanceof UnsupportedError && /plain holds the values/.test(error.message),
  );
});

Deno.test("granularity() refuses a checkpoint that is quantized already", async () => {
  await using sample = await open("sample");
  const config = { ...sample.config, quantization_config: { quant_method: "gptq" } };
  await using backend = await openWasm({ threads: 1 });
  const windows = await prepareWindows(sample, { seqLen: 64, numSamples: 2 });
  await assert.rejects(
    granularity({ ...sample, config }, {
      backend,
      evaluation: windows,
      request: requestOf(windows),
    }),
    /it is quantized already \(gptq\)\. Give the original/,
  );
});
