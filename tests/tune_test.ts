/**
 * Training of blocks: its gradients are those of the weights that codes and scales make, it never
 * ends worse than it began, and it is worth its time.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { adam } from "../src/ops/adam.ts";
import { scaleSlopes } from "../src/ops/scale_slopes.ts";
import { stepLatents } from "../src/ops/step_latents.ts";
import { stepScales } from "../src/ops/step_scales.ts";
import { zeroSlopes } from "../src/ops/zero_slopes.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import type { Rows, TensorSource } from "../src/source.ts";
import { openNowhere } from "../src/sinks/nowhere.ts";
import { run } from "../src/run.ts";
import { codeRange } from "../src/ops/grid.ts";
import { roundHalfEven, widenAll } from "../src/number.ts";
import { plan } from "../src/plan.ts";
import { splitWindows } from "../src/plan/tuning.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";
import { gaussian } from "./conformance/given.ts";
import { folder, quantize, tinyWindows } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

Deno.test("a step goes against what differences say of the squared error of a product", () => {
  const [R, C, T, group, bits] = [3, 12, 7, 4, 3];
  const [x, target] = [gaussian(T * C, 1), gaussian(T * R, 2)];
  const { low, high } = codeRange({ bits, grid: 2 });
  const zero = Int8Array.from({ length: R * C / group }, (_, i) => i % 4 - 2);
  const u = Float32Array.from(gaussian(R * C, 3), (value) => value * 1.5);
  const scale = Float32Array.from(gaussian(R * C / group, 4), (value) => 0.2 + Math.abs(value));
  const codes = Int8Array.from(u, (value, i) => {
    const code = roundHalfEven(value) + zero[Math.floor(i / group)]!;
    return Math.min(Math.max(code, low), high);
  });
  const level = (i: number) => codes[i]! - zero[Math.floor(i / group)]!;
  /** The gradient by y, and the squared error, where weights are s·(n + d). */
  const errorsOf = (scales: ArrayLike<number>, apart: ArrayLike<number>) => {
    const y = new Float64Array(T * R);
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) {
        for (let c = 0; c < C; c++) {
          const i = r * C + c;
          const w = scales[Math.floor(i / group)]! * (level(i) + apart[i]!);
          y[t * R + r]! += x[t * C + c]! * w;
        }
        y[t * R + r]! -= target[t * R + r]!;
      }
    }
    return { y, loss: y.reduce((sum, e) => sum + e * e / 2, 0) };
  };
  const none = new Float64Array(R * C);
  const { y } = errorsOf(scale, none);
  const g = Float32Array.from({ length: R * C }, (_, i) => {
    const [r, c] = [Math.floor(i / C), i % C];
    return Array.from({ length: T }, (_, t) => y[t * R + r]! * x[t * C + c]!)
      .reduce((sum, term) => sum + term);
  });
  const differences = (values: Float64Array, lossOf: () => number) =>
    values.map((before, i) => {
      const [more, less] = [1e-4, -1e-4].map((step) => {
        values[i] = before + step;
        return lossOf();
      }) as [number, number];
      values[i] = before;
      return (more - less) / 2e-4;
    });
  const scales = Float64Array.from(scale);
  const byScale = differences(scales, () => errorsOf(scales, none).loss);
  // The straight-through estimator: rounding is as if it were not there.
  const apart = none.slice();
  const byLatent = differences(apart, () => errorsOf(scale, apart).loss);
  const tiles = { tile_rows: 1, tile_columns: group };
  const dims = { R, C, A: R, B: C / group };
  const slope = new Float32Array(scale.length);
  scaleSlopes.reference({ g, codes, zero, slope }, dims, tiles);
  slope.forEach((sum, i) => {
    const want = byScale[i]!;
    assert.ok(Math.abs(sum - want) < 1e-4 * (1 + Math.abs(want)), `${sum}, not ${want}`);
  });
  // At its first step Adam goes by signs, as without any memory.
  const direction = (g: Float32Array<ArrayBuffer>, decay: number) => {
    const [d, m, v] = [g.slice(), new Float32Array(g.length), new Float32Array(g.length)];
    const gain = 1 / (1 - decay);
    const scalars = { decay_m: decay, decay_v: decay, gain_m: gain, gain_v: gain };
    adam.reference({ g: d, m, v }, { N: g.length }, scalars);
    return d;
  };
  const after = { u: u.slice(), wide: scale.slice(), scale: scale.slice() };
  stepLatents.reference(
    { d: direction(g, 0), scale, zero, u: after.u },
    dims,
    { bits, grid: 2, ...tiles, rate: 0.01 },
  );
  stepScales.reference(
    { d: direction(slope, 0.9), wide: after.wide, scale: after.scale },
    { N: scale.length },
    { scale_dtype: 0, rate: 0.001 },
  );
  byScale.forEach((slope, i) => {
    const share = -Math.sign(slope) * 0.001;
    assert.ok(Math.abs(after.scale[i]! / scale[i]! - 1 - share) < 1e-6, `scale ${i}`);
  });
  byLatent.forEach((slope, i) => {
    const own = g[i]! * scale[Math.floor(i / group)]!;
    assert.ok(Math.abs(own - slope) < 1e-4 * (1 + Math.abs(slope)), `${own}, not ${slope}`);
    const z = zero[Math.floor(i / group)]!;
    const moved = u[i]! - 0.01 * Math.sign(slope);
    const want = Math.min(Math.max(moved, low - z - 0.5), high - z + 0.5);
    assert.ok(Math.abs(after.u[i]! - want) < 1e-6, `latent ${i}`);
  });
});

Deno.test("windows are trained on or judge, each of them, one in eight and at least one", () => {
  for (const [count, judges] of [[2, 1], [7, 1], [16, 2], [128, 16], [130, 16]] as const) {
    const { training, heldOut } = splitWindows(count);
    assert.equal(heldOut.length, judges);
    const all = [...training, ...heldOut].sort((a, b) => a - b);
    assert.deepEqual(all, Array.from({ length: count }, (_, i) => i));
  }
});

const CALIBRATION = { windows: tinyWindows(6, 40), stateBudget: 1e7 };

function tiny(): Promise<string> {
  return makeCheckpoint(tinyTensors("bf16"), { config: TINY_CONFIG, change: livelyNorms("bf16") });
}

for (
  const given of [
    { scheme: "W4A16_ASYM", "group-size": 32, method: "awq+gptq" },
    { scheme: "W2A16", "group-size": 16, method: "gptq", propagate: false },
    { scheme: "W3A16", "group-size": 64, method: "rtn", "calibrate-on": "float" },
    { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" },
  ]
) {
  const { method, ...options } = given;
  Deno.test(`a block that is trained begins at what ${method} gave in ${options.scheme}, and never ends worse`, async () => {
    await using into = await folder();
    await using backend = await openWasm({ threads: 2 });
    const model = await tiny();
    const how = { backend, into: into.path, calibration: CALIBRATION };
    const chain = `${method}+tune`;
    const still = { ...options, method: chain, iterations: 2, lr: 0, "scale-lr": 0 };
    const { out, report } = await quantize(model, still, how);
    const plain = await quantize(model, { ...options, method }, how);
    // Of the first block, on whose input no other had any part: where scales went into a linear
    // whose rows have several, windows that go through it anew see what rounding made of these.
    await using trained = await openCheckpoint(out);
    await using solved = await openCheckpoint(plain.out);
    for (const name of trained.tensors.keys()) {
      if (!name.startsWith("model.layers.0.")) continue;
      const [one, other] = [await trained.read(name), await solved.read(name)];
      assert.ok(Buffer.from(one).equals(other), name);
    }
    for (const { calibration } of report.tensors) {
      const { before, after, iterations } = calibration!.tuning!;
      assert.ok(before > 0 && after === before && iterations === 2);
    }
    let better = 0;
    for (const lr of [0.005, 0.03, 1]) {
      const moving = { ...options, method: chain, iterations: 20, "batch-size": 3, lr };
      const { report, events } = await quantize(model, moving, how);
      for (const { calibration } of report.tensors) {
        const { before, after } = calibration!.tuning!;
        assert.ok(after <= before, `${before} → ${after}`);
        if (after < before) better++;
      }
      const steps = events.flatMap((event) => event.type === "advanced" ? [event] : []);
      assert.ok(steps.every(({ done, total }) => done <= total), "steps that were not counted");
    }
    // Where GPTQ leaves little at 4 bits and more, there is next to nothing to gain.
    assert.ok(better > 0 || /^W[48]/.test(options.scheme), "no block has become better");
    await Deno.remove(model, { recursive: true });
  });
}

/** Mean squared error of all weights of a tiny model's linears. */
async function weightError(path: string, out: string): Promise<number> {
  await using original = await openCheckpoint(path);
  await using backend = await openWasm({ threads: 1 });
  const trained = await openCheckpoint(out);
  await using _ = trained;
  const { recognize } = await import("../src/formats/mod.ts");
  const { format, weights } = (await recognize(trained))!;
  let [sum, count] = [0, 0];
  for (const weight of weights.values()) {
    using scope = backend.scope();
    const read = (name: string, rows?: Rows) => trained.read(name, rows);
    const quantized = await format.unpack(weight, read, { scope });
    const [bytes] = await backend.read(schemeKind(weight.scheme).dequantize(quantized, scope));
    const stored = await original.read(weight.name);
    const before = widenAll("bf16", new Uint16Array(stored.slice().buffer));
    new Float32Array(bytes!.buffer).forEach((value, i) => sum += (value - before[i]!) ** 2);
    count += before.length;
  }
  return sum / count;
}

Deno.test("what blocks are trained for, and how: each option does what it says, and none ends worse", async () => {
  await using into = await folder();
  await using backend = await openWasm({ threads: 2 });
  const model = await tiny();
  const usual = {
    scheme: "W3A16_ASYM",
    "group-size": 16,
    scale: "mse",
    method: "tune",
    iterations: 20,
    lr: 0.05,
    "batch-size": 3,
  };
  const how = { backend, into: into.path, calibration: CALIBRATION };
  const weights = async (out: string) => {
    await using trained = await openCheckpoint(out);
    const names = [...trained.tensors.keys()].filter((name) => name.includes(".layers."));
    const parts = await Promise.all(names.map((name) => trained.read(name)));
    return Buffer.concat(parts);
  };
  const plain = await quantize(model, usual, how);
  const before = await weights(plain.out);
  const facts = (report: typeof plain.report, block: number) =>
    report.tensors.find(({ name }) => name.startsWith(`model.layers.${block}.`))!.calibration!
      .tuning!;
  let better = 0;
  for (
    const options of [
      { "zero-points": true },
      { "weight-loss": 10 },
      { gradients: "bf16" },
      { "kl-blocks": 1, lr: 0.02 },
      { "kl-blocks": 2, "weight-loss": 0.1, lr: 0.005 },
    ] as const
  ) {
    const named = JSON.stringify(options);
    const { out, report } = await quantize(model, { ...usual, ...options }, how);
    const again = await quantize(model, { ...usual, ...options }, how);
    assert.ok(
      (await weights(again.out)).equals(await weights(out)),
      `${named}: not the same twice`,
    );
    assert.ok(!before.equals(await weights(out)), `${named}: nothing changed`);
    for (const block of [0, 1]) {
      const { before, after } = facts(report, block);
      assert.ok(after > 0 && after <= before, `${named}: ${before} → ${after}`);
    }
    if ("weight-loss" in options && options["weight-loss"] === 10) {
      const [held, free] = [await weightError(model, out), await weightError(model, plain.out)];
      assert.ok(held < free, `${held}, ${free}`);
    }
    if ("kl-blocks" in options) better += Number(facts(report, 1).after < facts(report, 1).before);
  }
  assert.ok(better > 0, "no block predicts better");
  await Deno.remove(model, { recursive: true });
});

Deno.test("what is read to train for predictions is what was said before", async () => {
  const path = await tiny();
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(path);
  const options = { scheme: "W4A16", "group-size": 32, method: "tune", iterations: 2 };
  const recipe = recipeFromOptions({ ...options, "kl-blocks": 2 });
  const request = { seqLen: 40, windows: 6, stateBudget: 1e7 };
  const work = plan(recipe, source, { device: backend, calibration: request });
  assert.throws(
    () =>
      plan(recipeFromOptions({ ...options, "kl-blocks": 3 }), source, {
        device: backend,
        calibration: request,
      }),
    /`kl-blocks` is 3, and the model has 2 blocks/,
  );
  const once = (names: readonly string[]) => names.filter((name, i) => name !== names[i - 1]);
  const [said, read]: string[][] = [[], []];
  const watched: TensorSource = {
    ...source,
    schedule: (order) => void said!.push(...order.map(({ name }) => name)),
    read(name, rows, into) {
      read!.push(name);
      return source.read(name, rows, into);
    },
  };
  await using sink = openNowhere();
  await run(work, { source: watched, backend, sink, calibration: CALIBRATION });
  // What is copied is read ahead, and the embedding looked at meanwhile.
  const later = (names: readonly string[]) =>
    once(names).filter((name) => name !== "model.embed_tokens.weight").toSorted();
  assert.deepEqual(later(read!), later(said!));
  const head = (names: readonly string[]) => names.filter((name) => name === "lm_head.weight");
  assert.equal(head(once(read!)).length, 3, "once for each block, and once to be copied");
  await Deno.remove(path, { recursive: true });
});

Deno.test("a gradient by a zero point is what differences say where weights are clipped", () => {
  const [bits, grid, group] = [3, 2, 4];
  const { low, high } = codeRange({ bits, grid });
  const zero = Int8Array.of(1, -2);
  const scale = Float32Array.of(0.5, -0.25);
  // Of each tile one at the upper end, one at the lower, two between.
  const u = Float32Array.from([0, 1].flatMap((tile) => [
    ...[high - zero[tile]! + 0.5, low - zero[tile]! - 0.5],
    ...[0.2, -0.7],
  ]));
  const g = Float32Array.from(gaussian(8, 9));
  const lossOf = (tile: number, z: number) =>
    Array.from({ length: group }, (_, i) => tile * group + i).reduce((sum, i) => {
      // A latent at an end is clipped, whatever a small step makes of that end.
      const end = u[i]! === high - zero[tile]! + 0.5
        ? high - z
        : u[i]! === low - zero[tile]! - 0.5
        ? low - z
        : roundHalfEven(u[i]!);
      return sum + g[i]! * scale[tile]! * end;
    }, 0);
  const slope = new Float32Array(2);
  const tiles = { bits, grid, tile_rows: 1, tile_columns: group };
  zeroSlopes.reference({ g, u, scale, zero, slope }, { R: 2, C: group, A: 2, B: 1 }, tiles);
  slope.forEach((found, tile) => {
    const want = (lossOf(tile, zero[tile]! + 0.01) - lossOf(tile, zero[tile]! - 0.01)) / 0.02;
    assert.ok(Math.abs(found - want) < 1e-5, `${found}, not ${want}`);
  });
});

Deno.test("training with states on disk, and with fewer windows at a time, ends no worse either", async () => {
  await using into = await folder();
  await using backend = await openWasm({ threads: 2 });
  const model = await tiny();
  const options = { scheme: "W3A16", "group-size": 32, method: "gptq+tune", iterations: 8 };
  const { disk } = await import("../src/io/disk.ts");
  const spill = { disk, folder: into.path };
  const calibration = { ...CALIBRATION, stateBudget: 40 * 64 * 4 * 3, spill };
  const { report } = await quantize(model, options, { backend, into: into.path, calibration });
  for (const { calibration } of report.tensors) {
    const { before, after } = calibration!.tuning!;
    assert.ok(after <= before && after > 0);
  }
  await Deno.remove(model, { recursive: true });
});

Deno.test("training lowers what rounding to nearest loses of the sample model in W3A16_ASYM", async () => {
  await using into = await folder();
  await using backend = await openWasm();
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const given = {
    backend,
    into: into.path,
    calibration: await prepareCalibration(source, { seqLen: 128, numSamples: 16 }),
    evaluation: await prepareWindows(source, { seqLen: 256, numSamples: 4 }),
  };
  const lost: number[] = [];
  for (const options of [{ method: "rtn" }, { method: "tune", iterations: 30, lr: 0.015 }]) {
    const all = { scheme: "W3A16_ASYM", "group-size": 64, "batch-size": 6, ...options };
    const { "batch-size": batch, ...others } = all;
    const asked = options.method === "rtn" ? others : { ...others, "batch-size": batch };
    const { report } = await quantize(SAMPLE_MODEL.pathname, asked, given);
    lost.push(report.scores.divergence!.mean!);
  }
  const [rounded, trained] = lost as [number, number];
  assert.ok(trained < 0.8 * rounded, lost.join(" → "));
});

Deno.test("what cannot be trained is refused while planning", async () => {
  const model = await tiny();
  await using source = await openCheckpoint(model);
  await using device = await openWasm({ threads: 1 });
  const planFor = (recipe: ReturnType<typeof recipeFromOptions>, windows = 4) =>
    plan(recipe, source, { device, calibration: { seqLen: 40, windows, stateBudget: 1e7 } });
  const refusals: readonly (readonly [() => unknown, RegExp])[] = [
    [
      () => planFor(recipeFromOptions({ scheme: "NF4", method: "gptq+tune" })),
      /tune trains codes of int, not of nf4\.$/,
    ],
    [
      () => planFor(recipeFromOptions({ method: "tune", iterations: 5, epochs: 1 })),
      /`iterations` and `epochs` both say how long to train; give one of them\.$/,
    ],
    [
      () => planFor(recipeFromOptions({ "group-size": 32, method: "tune" }), 1),
      /^Cannot quantize ".*" by rtn\+tune: it is trained on some windows and judged by others, .* at least two \(`numSamples`\)\.$/,
    ],
    [
      () =>
        planFor(parseRecipe(
          'scheme: W4A16\ngroup_size: 32\nmethod: tune\nrules: [{ match: "re:.*down_proj", group_size: 32, method: tune, lr: 0.1 }]',
          "recipe.yaml",
        )),
      /are trained together, as weights of one block, .* give the same to both\.$/,
    ],
    [() => recipeFromOptions({ method: "tune+gptq" }), /so nothing can follow it\.$/],
  ];
  for (const [act, message] of refusals) assert.throws(act, { message });
  assert.equal(planFor(recipeFromOptions({ "group-size": 32, method: "tune" })).tuned, true);
  await Deno.remove(model, { recursive: true });
});
