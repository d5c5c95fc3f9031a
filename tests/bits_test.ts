/** Bits where they matter: what groups of linears lose, files of that, and what is chosen by it. */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import {
  type BitOptions,
  bitOptions,
  chooseBits,
  chooseBySigmoid,
  measureSensitivities,
  parseBitOptions,
  sigmoidBits,
} from "../src/bits.ts";
import { Bench } from "../src/bits/bench.ts";
import { divergences } from "../src/bits/divergence.ts";
import { gradientLosses } from "../src/bits/gradient.ts";
import { lossesFromReport } from "../src/bits/report_losses.ts";
import {
  lossesOf,
  modelHash,
  parseSensitivities,
  type Sensitivities,
  sensitivitiesOf,
} from "../src/bits/sensitivities.ts";
import type { QuantizedSlice } from "../src/calibration/quantized_weight.ts";
import { RequestError, UnsupportedError } from "../src/errors.ts";
import { evaluateTokens } from "../src/evaluate.ts";
import { widenAll } from "../src/number.ts";
import type { Event } from "../src/report.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { requestOf } from "../src/plan/planned.ts";
import { type QuantizeTask, quantizeTasks } from "../src/plan/tasks.ts";
import { plan } from "../src/plan.ts";
import { type Recipe, recipeDocument, recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { run } from "../src/run.ts";
import { openHub } from "../src/sources/hub.ts";
import { openNowhere } from "../src/sinks/nowhere.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorSource } from "../src/source.ts";
import { byteLength, sum } from "../src/tensor.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import { prepareCalibration } from "../src/windows.ts";
import { READ_TOKEN, startFakeHub } from "./fake_hub/mod.ts";
import { clientOf } from "./hub_given.ts";
import { onEveryBackend } from "./present.ts";
import { DEVICE } from "./plan_given.ts";
import { tinyWindows } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const BASE = recipeFromOptions({ "group-size": 32 });
const OPTIONS = parseBitOptions("W3A16,W4A16,W8A16,BF16");
const CALIBRATION = { seqLen: 16, windows: 2, stateBudget: 1e6 };

/** A tiny Llama whose hidden states depend on every weight. */
async function withTiny(
  test: (source: TensorSource) => void | Promise<void>,
  config: Record<string, unknown> = TINY_CONFIG,
): Promise<void> {
  const folder = await makeCheckpoint(tinyTensors(), { config, change: livelyNorms("bf16") });
  try {
    await using source = await openCheckpoint(folder);
    await test(source);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Losses drawn by a rule, so that options of more bits lose less. */
function drawnSensitivities(work: BitOptions, model = "m"): Sensitivities {
  const losses = work.groups.map((_, i) => [9 + i, 1 + (i * i) % 7, 0.01 * (1 + i % 3)]);
  return sensitivitiesOf(work, losses, { by: "divergence", model, text: null });
}

onEveryBackend(
  "a group's sensitivity is the divergence that a run which quantizes it alone measures",
  (backend) =>
    withTiny(async (source) => {
      const input = { windows: tinyWindows(3, 16), stateBudget: 1e9 };
      const work = bitOptions(BASE, source, { options: OPTIONS, device: backend });
      assert.deepEqual(work.groups.map(({ block, names }) => [block, names.length]), [
        ...[[0, 3], [0, 1], [0, 2], [0, 1]],
        ...[[1, 3], [1, 1], [1, 2], [1, 1]],
      ]);
      const found = await measureSensitivities(source, work, { backend, windows: input });
      for (const [group, scheme] of [[0, "W3A16"], [3, "W8A16"], [6, "W4A16"]] as const) {
        const { names } = work.groups[group]!;
        const recipe: Recipe = {
          ...BASE,
          rules: names.map((match) => ({ ...BASE.rules[0]!, match, scheme, method: "rtn" })),
        };
        const alone = plan(recipe, source, {
          device: backend,
          evaluation: requestOf({ ...input, seqLen: 16 }),
        });
        await using sink = openNowhere();
        const { scores } = await run(alone, { source, backend, sink, evaluation: input });
        const expected = scores.divergence!.mean!;
        assert.ok(expected > 0);
        const { losses } = found.groups[group]!;
        const own = losses[scheme]!;
        assert.ok(Math.abs(own - expected) <= 1e-6 * expected + 1e-9, `${own}, ${expected}`);
        assert.ok(losses.W3A16! > losses.W8A16!);
      }
    }),
);

/** Of differences, as a share of what rounding does. */
const STEP = 2 ** -3;

/** A model in which one weight is `w`, in f32. */
function changed(source: TensorSource, name: string, w: Float32Array<ArrayBuffer>): TensorSource {
  const info = { ...source.tensors.get(name)!, dtype: "f32" as const };
  const bytes = new Uint8Array(w.buffer);
  const row = bytes.length / info.shape[0]!;
  return {
    ...source,
    tensors: new Map([...source.tensors, [name, info]]),
    read: (asked, rows, into) =>
      asked === name
        ? Promise.resolve(rows ? bytes.slice(rows.from * row, rows.to * row) : bytes)
        : source.read(asked, rows, into),
  };
}

onEveryBackend(
  "a sensitivity by gradients is π/4·d², d what the likelihood changes by",
  (backend) =>
    withTiny(async (source) => {
      // Of a window of two tokens the first alone is judged, by what it alone makes of the weights.
      const input = { windows: tinyWindows(1, 2), stateBudget: 1e9 };
      const device = backend;
      const base = recipeFromOptions({ "group-size": 32, method: "rtn" });
      const work = bitOptions(base, source, { options: OPTIONS, device, head: true });
      const found = await measureSensitivities(source, work, {
        by: "gradient",
        backend,
        windows: input,
      });
      assert.equal(found.by, "gradient");
      await using bench = new Bench(source, { model: work.model, backend, input });
      for (const group of [1, 3, 5, 8]) {
        const { names: [name], options } = work.groups[group]!;
        const [task] = options[0]!.tasks as [QuantizeTask];
        using scope = backend.scope();
        const [{ quantized }] = await bench.round(task, scope) as [QuantizedSlice];
        const to = schemeKind(quantized.scheme).dequantize(quantized, scope);
        const [rounded] = await backend.read(to);
        const values = new Float32Array(rounded!.buffer);
        const before = widenAll("bf16", new Uint16Array((await source.read(name!)).slice().buffer));
        const at = async (step: number) => {
          const w = before.map((value, i) => value + step * (values[i]! - value));
          const evaluated = changed(source, name!, Float32Array.from(w));
          const { originalNll } = await evaluateTokens(evaluated, { backend, evaluation: input });
          return originalNll[0]!;
        };
        const slope = (await at(STEP) - await at(-STEP)) / (2 * STEP);
        const own = found.groups[group]!.losses.W3A16!;
        const expected = Math.PI / 4 * slope ** 2;
        // A likelihood in f32 is off by a few 2⁻²².
        const off = 2 ** -20 / STEP * Math.abs(slope);
        assert.ok(Math.abs(own - expected) <= 0.02 * expected + off, `${own}, ${expected}`);
        assert.ok(expected > 1e-9, `${name}: ${expected}`);
      }
    }),
);

Deno.test("where GPTQ will choose codes, a sensitivity by gradients is about what it loses then", async () => {
  await using backend = await openWasm();
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const base = recipeFromOptions({ "group-size": 64, method: "gptq", sweeps: 0, propagate: false });
  const work = bitOptions(base, source, { options: ["W3A16", "W8A16"], device: backend });
  const prepared = await prepareCalibration(source, { seqLen: 256, numSamples: 8 });
  const input = { ...prepared, stateBudget: 1e9 };
  const found = await measureSensitivities(source, work, {
    by: "gradient",
    backend,
    windows: input,
  });
  const rounded = await measureSensitivities(
    source,
    { ...work, base: recipeFromOptions({ "group-size": 64, method: "rtn" }) },
    { by: "gradient", backend, windows: input },
  );
  for (const group of [2, 7, 9]) {
    const { names } = work.groups[group]!;
    const recipe: Recipe = {
      ...base,
      rules: names.map((match) => ({ ...base.rules[0]!, match, scheme: "W3A16" })),
    };
    const request = requestOf({ ...input, seqLen: 256 });
    const alone = plan(recipe, source, {
      device: backend,
      calibration: request,
      evaluation: request,
    });
    await using sink = openNowhere();
    const given = { source, backend, sink, calibration: input, evaluation: input };
    const lost = (await run(alone, given)).scores.divergence!.mean!;
    const own = found.groups[group]!.losses.W3A16!;
    assert.ok(own > lost / 1.35 && own < lost * 1.35, `${own}, ${lost}`);
    assert.ok(rounded.groups[group]!.losses.W3A16! > 1.4 * lost, "GPTQ gains nothing here");
  }
});

onEveryBackend(
  "sensitivities by gradients do not depend on how many candidates there is room for, and tell how far they are",
  (backend) =>
    withTiny(async (source) => {
      const { model, groups } = bitOptions(BASE, source, {
        options: OPTIONS,
        device: backend,
        head: true,
      });
      const candidates = groups.flatMap(({ block, options }) =>
        options.slice(0, 3).map(({ tasks }) => ({ block, tasks }))
      );
      const input = { windows: tinyWindows(3, 16), stateBudget: 1e9 };
      const steps: number[] = [];
      const report = (event: Event) =>
        void (event.type === "advanced" && steps.push(event.done - event.total));
      const together = await gradientLosses(source, candidates, { model, backend, input, report });
      assert.equal(steps.at(-1), 0, "every step is counted before");
      const alone: number[] = [];
      for (const one of candidates) {
        alone.push(...await gradientLosses(source, [one], { model, backend, input }));
      }
      assert.deepEqual(alone, together);
      const inBlocks = candidates.filter(({ block }) => block < model.blocks.length);
      const propagated = inBlocks.map((one) => ({ ...one, propagated: true }));
      const repaired = await gradientLosses(source, propagated, { model, backend, input });
      for (const [i, { block }] of inBlocks.entries()) {
        const expected = together[i]! * 0.98 ** (model.blocks.length - 1 - block);
        assert.ok(Math.abs(repaired[i]! - expected) <= 1e-12 * expected, `${block}`);
      }
      const measured = await divergences(source, candidates, { model, backend, input });
      const ratios = together.map((loss, i) => loss / measured[i]!);
      // An estimate, on 45 tokens of a model that knows nothing.
      assert.ok(ratios.every((ratio) => ratio > 0.2 && ratio < 5), `${ratios}`);
      const few = { windows: input.windows, stateBudget: 3 * 3 * 16 * 64 * 4 };
      await assert.rejects(
        gradientLosses(source, candidates, { model, backend, input: few }),
        (error: Error) =>
          error instanceof UnsupportedError && /Give `maxStates` 49.2kB/.test(error.message),
      );
    }),
);

onEveryBackend(
  "candidates that walk in turns lose what they lose together, and a budget for none is refused",
  (backend) =>
    withTiny(async (source) => {
      const { model, groups } = bitOptions(BASE, source, { options: OPTIONS, device: backend });
      const candidates = groups.map(({ block, options }) => ({ block, tasks: options[0]!.tasks }));
      const windows = tinyWindows(2, 16);
      const stream = 2 * 16 * 64 * 4;
      const steps: number[] = [];
      const measure = (streams: number) =>
        divergences(source, candidates, {
          model,
          backend,
          input: { windows, stateBudget: streams * stream },
          report: (event) => event.type === "advanced" && steps.push(event.done - event.total),
        });
      const together = await measure(10);
      assert.equal(steps.at(-1), 0, "every step is counted before");
      // Three beside the two of the original; 3 + 3 + 2 candidates.
      assert.deepEqual(await measure(5), together);
      assert.deepEqual(await measure(3), together);
      await assert.rejects(
        measure(2),
        (error: Error) =>
          error instanceof UnsupportedError && /Give `maxStates` 24.6kB/.test(error.message),
      );
    }),
);

onEveryBackend(
  "the head takes part where that is asked for, measured as runs measure it, and not where it is tied",
  (backend) =>
    withTiny(async (source) => {
      const input = { windows: tinyWindows(2, 16), stateBudget: 1e9 };
      const device = backend;
      const work = bitOptions(BASE, source, { options: OPTIONS, device, head: true });
      const { block, names } = work.groups.at(-1)!;
      assert.deepEqual([work.groups.length, block, names], [9, 2, ["lm_head.weight"]]);
      const found = await measureSensitivities(source, work, { backend, windows: input });
      for (const scheme of ["W3A16", "W8A16"]) {
        const rule = { ...BASE.rules[0]!, match: "lm_head", scheme, method: "rtn" };
        const request = requestOf({ ...input, seqLen: 16 });
        const alone = plan({ ...BASE, rules: [rule] }, source, { device, evaluation: request });
        await using sink = openNowhere();
        const { scores } = await run(alone, { source, backend, sink, evaluation: input });
        const expected = scores.divergence!.mean!;
        const own = found.groups.at(-1)!.losses[scheme]!;
        assert.ok(expected > 0 && Math.abs(own - expected) <= 1e-6 * expected + 1e-9);
      }
      const { recipe, chosen, bitsPerWeight } = chooseBits(source, work, {
        sensitivities: found,
        target: { bitsPerWeight: 4.5 },
        device,
      });
      assert.ok(bitsPerWeight <= 4.5);
      const made = plan(recipe, source, { device, calibration: CALIBRATION });
      const head = quantizeTasks(made.units).find(({ name }) => name === "lm_head.weight");
      assert.equal(head?.rule.scheme ?? "BF16", chosen.at(-1)!.option.name);
      const tied = { ...source.config, tie_word_embeddings: true };
      const tensors = new Map([...source.tensors].filter(([name]) => name !== "lm_head.weight"));
      const other: TensorSource = { ...source, label: "tied", config: tied, tensors };
      assert.throws(
        () => bitOptions(BASE, other, { options: OPTIONS, device, head: true }),
        /tied/,
      );
    }),
);

Deno.test("a model of the Hub, whose blocks are read again and again, loses what it loses in a folder", () =>
  withTiny(async (local) => {
    await using backend = await openWasm({ threads: 1 });
    const folder = await makeCheckpoint(tinyTensors(), {
      config: TINY_CONFIG,
      change: livelyNorms("bf16"),
    });
    await using cleanup = new AsyncDisposableStack();
    cleanup.defer(() => Deno.remove(folder, { recursive: true }));
    await using hub = await startFakeHub({ repos: { "org/model": folder }, largeFileBytes: 1000 });
    // One candidate at a time.
    const windows = { windows: tinyWindows(2, 16), stateBudget: 3 * 2 * 16 * 64 * 4 };
    const options = parseBitOptions("W3A16,W8A16");
    const measure = async (source: TensorSource) =>
      (await measureSensitivities(
        source,
        bitOptions(BASE, source, { options, device: backend }),
        { backend, windows },
      )).groups;
    const expected = await measure(local);
    for (const maxDisk of [0, 1e9]) {
      await using source = await openHub("org/model", {
        client: clientOf(hub, { token: READ_TOKEN }),
        maxDisk,
        stagingFolder: `${folder}/staging-${maxDisk}`,
      });
      assert.deepEqual(await measure(source), expected);
    }
  }));

Deno.test("bits per weight are as asked or just below, and the recipe is planned as it is written", () =>
  withTiny((source) => {
    const work = bitOptions(BASE, source, { options: OPTIONS, device: DEVICE });
    const sensitivities = drawnSensitivities(work);
    let before = Infinity;
    for (const bitsPerWeight of [3.6, 4.5, 6, 9]) {
      const made = chooseBits(source, work, {
        sensitivities,
        target: { bitsPerWeight },
        device: DEVICE,
      });
      assert.ok(made.bitsPerWeight <= bitsPerWeight && made.bitsPerWeight > bitsPerWeight - 0.6);
      assert.ok(made.loss < before, "more bits, less loss");
      before = made.loss;
      const text = JSON.stringify(recipeDocument(made.recipe));
      assert.deepEqual(parseRecipe(text, "a.json"), made.recipe);
      const planned = plan(made.recipe, source, { device: DEVICE, calibration: CALIBRATION });
      const byName = new Map(planned.units.flatMap(({ tasks }) => tasks).map((t) => [t.name, t]));
      for (const { group, option } of made.chosen) {
        const own = group.names.map((name) => byName.get(name)!);
        assert.equal(sum(own, ({ outputs }) => sum(outputs, byteLength)), option.bytes);
        for (const task of own) {
          if (option.name === "BF16") assert.equal(task.kind, "copy");
          else assert.ok(task.kind === "quantize" && task.rule.scheme === option.name);
        }
      }
      const bytes = sum(made.chosen, ({ option }) => option.bytes);
      const elements = sum(work.groups, ({ elements }) => elements);
      assert.equal(made.bitsPerWeight, bytes * 8 / elements);
    }
  }));

Deno.test("a target size holds for the whole output, and what cannot be is refused with the least", () =>
  withTiny((source) => {
    const work = bitOptions(BASE, source, { options: OPTIONS, device: DEVICE });
    const sensitivities = drawnSensitivities(work);
    const choose = (target: { bytes: number } | { bitsPerWeight: number }) =>
      chooseBits(source, work, { sensitivities, target, device: DEVICE });
    const size = (recipe: Recipe) =>
      plan(recipe, source, { device: DEVICE, calibration: CALIBRATION }).totalBytes;
    for (const bytes of [75_000, 90_000, 120_000]) {
      const { recipe } = choose({ bytes });
      assert.ok(size(recipe) <= bytes && size(recipe) > bytes - 12_000, `${size(recipe)}`);
    }
    const refused = (target: Parameters<typeof choose>[0]): string => {
      try {
        choose(target);
      } catch (error) {
        assert.ok(error instanceof UnsupportedError);
        return error.message;
      }
      throw new Error("not refused");
    };
    const [, least] = /the least is (\d+(?:\.\d+)?)kB/.exec(refused({ bytes: 1000 }))!;
    assert.ok(
      choose({ bytes: Number(least) * 1000 }).chosen.every((o) => o.option.name === "W3A16"),
    );
    assert.match(refused({ bytes: Number(least) * 1000 - 150 }), /the least is/);
    assert.match(refused({ bitsPerWeight: 3.4 }), /Give `target-bpw` 3\.\d+ or more/);
    assert.throws(
      () => choose({ bitsPerWeight: 16 }),
      (error: Error) => error instanceof RequestError && /every weight stays/.test(error.message),
    );
  }));

Deno.test("rules of a recipe that name weights stay, and their weights are not chosen for", () =>
  withTiny((source) => {
    const base: Recipe = {
      ...BASE,
      rules: [
        { match: "*down_proj", scheme: "W8A16", method: "rtn", options: { "group-size": 32 } },
        ...BASE.rules,
      ],
      ignore: ["*.layers.1.self_attn.o_proj"],
    };
    const work = bitOptions(base, source, { options: OPTIONS, device: DEVICE });
    assert.equal(work.groups.length, 5);
    const { recipe } = chooseBits(source, work, {
      sensitivities: drawnSensitivities(work),
      target: { bitsPerWeight: 4.5 },
      device: DEVICE,
    });
    assert.deepEqual(recipe.rules[0], base.rules[0]);
    const tasks = quantizeTasks(
      plan(recipe, source, { device: DEVICE, calibration: CALIBRATION }).units,
    );
    const down = tasks.filter(({ name }) => name.includes("down_proj"));
    assert.deepEqual(down.map(({ rule }) => rule.scheme), ["W8A16", "W8A16"]);
    assert.ok(!tasks.some(({ name }) => name.includes("1.self_attn.o_proj")));
    const bare = { ...base, rules: base.rules.slice(0, 1) };
    assert.throws(
      () => bitOptions(bare, source, { options: OPTIONS, device: DEVICE }),
      RequestError,
    );
  }));

Deno.test("options of a method go to the weights that it does, and to no others", () =>
  withTiny((source) => {
    const base = recipeFromOptions({ "group-size": 32, sweeps: 3, scale: "hessian" });
    const work = bitOptions(base, source, { options: OPTIONS, device: DEVICE });
    const { recipe } = chooseBits(source, work, {
      sensitivities: drawnSensitivities(work),
      target: { bitsPerWeight: 5 },
      device: DEVICE,
    });
    const of = (scheme: string) => recipe.rules.find((rule) => rule.scheme === scheme)!;
    assert.deepEqual(of("W4A16").options, { "group-size": 32, sweeps: 3, scale: "hessian" });
    assert.deepEqual(of("W8A16").options, { "group-size": 32, scale: "hessian" });
    plan(recipe, source, { device: DEVICE, calibration: CALIBRATION });
  }));

Deno.test("bits are chosen for a method that trains on some windows and is judged by others", () =>
  withTiny((source) => {
    const base = recipeFromOptions({ "group-size": 32, method: "awq+gptq+tune" });
    const work = bitOptions(base, source, { options: OPTIONS, device: DEVICE });
    const { recipe, bitsPerWeight } = chooseBits(source, work, {
      sensitivities: drawnSensitivities(work),
      target: { bitsPerWeight: 5 },
      device: DEVICE,
    });
    assert.ok(bitsPerWeight <= 5, `${bitsPerWeight} bits`);
    assert.deepEqual(
      new Set(recipe.rules.filter(({ scheme }) => scheme !== "none").map(({ method }) => method)),
      new Set(["awq+gptq+tune"]),
    );
    plan(recipe, source, { device: DEVICE, calibration: CALIBRATION });
  }));

Deno.test("a file of sensitivities gives back what was measured, for this model and these options alone", () =>
  withTiny(async (source) => {
    const work = bitOptions(BASE, source, { options: OPTIONS, device: DEVICE });
    const hash = await modelHash(source);
    const made = drawnSensitivities(work, hash);
    const text = JSON.stringify(made);
    const read = parseSensitivities(text, "s.json", hash);
    assert.deepEqual(read, made);
    assert.deepEqual(lossesOf(work, read)[2], [11, 5, 0.03, 0]);

    const changed = { ...source.config, rope_theta: 1 };
    assert.notEqual(await modelHash({ ...source, tensors: source.tensors, config: changed }), hash);
    const refuses = (text: string, says: RegExp, model = hash) =>
      assert.throws(
        () => parseSensitivities(text, "s.json", model),
        (error: Error) => error instanceof RequestError && says.test(error.message),
      );
    refuses(text, /of another model/, "0");
    refuses(JSON.stringify({ ...made, version: 2 }), /version is 2, this Sluice reads version 1/);
    refuses("no", /no JSON object/);
    refuses(text.replace(/"W3A16":11/, '"W3A16":-1'), /a value that it cannot have/);

    const losses = (options: string, recipe = BASE) =>
      lossesOf(
        bitOptions(recipe, source, { options: parseBitOptions(options), device: DEVICE }),
        read,
      );
    assert.deepEqual(losses("W8A16,W3A16")[2], [0.03, 11]);
    assert.throws(() => losses("W2A16,W4A16"), /they are of W3A16, W4A16, W8A16, and not of W2A16/);
    const other = recipeFromOptions({ "group-size": 64 });
    assert.throws(() => losses("W3A16,W4A16", other), /measured with other options/);
    // By gradients it matters whether GPTQ is to choose codes.
    const rounded = recipeFromOptions({ "group-size": 32, method: "rtn" });
    const sensed = sensitivitiesOf(work, work.groups.map(() => [1, 2, 3]), {
      by: "gradient",
      model: hash,
      text: null,
    });
    const again = bitOptions(rounded, source, {
      options: parseBitOptions("W3A16,W4A16,W8A16"),
      device: DEVICE,
    });
    assert.equal(lossesOf(work, sensed).length, work.groups.length);
    assert.throws(() => lossesOf(again, sensed), /measured with other options/);
  }));

Deno.test("losses of a report are added over a group, and quartered with each bit", () =>
  withTiny((source) => {
    const { groups } = bitOptions(BASE, source, { options: OPTIONS, device: DEVICE });
    const weights = groups.flatMap(({ options: [{ tasks } = { tasks: [] }] }) =>
      tasks.map(({ name, weight: { shape: [rows, columns] } }, i) => (
        { name, rows, columns, bits: 4, loss: 1 + i }
      ))
    );
    const { losses } = lossesFromReport(groups, JSON.stringify({ weights }), "r.json");
    assert.deepEqual(losses[0], [4 * 6, 6, 6 / 4 ** 4]);
    assert.deepEqual(losses[1], [4, 1, 1 / 4 ** 4]);
    const refuses = (change: Record<string, unknown>, says: RegExp) =>
      assert.throws(
        () =>
          lossesFromReport(
            groups,
            JSON.stringify({ weights: weights.map((one) => ({ ...one, ...change })) }),
            "r.json",
          ),
        says,
      );
    refuses({ loss: null }, /no loss of "model.layers.0.self_attn.q_proj.weight"/);
    refuses({ rows: 3 }, /3 × 64, the model's 64 × 64/);
    refuses({ name: "a" }, /of another model/);
    assert.throws(() => lossesFromReport(groups, "{}", "r.json"), /no report\.json/);
  }));

Deno.test("the lecture's rule gives 8 − 4·σ(s) bits, and the option nearest to them", () =>
  withTiny((source) => {
    // Mean 2, deviation 1: s is −1 and 1, σ 0.269 and 0.731.
    assert.deepEqual(sigmoidBits([1, 3]), [7, 5]);
    assert.deepEqual(sigmoidBits([5, 5, 5]), [6, 6, 6]);
    assert.deepEqual(sigmoidBits([0, 0, 0, 0, 0, 0, 0, 0, 0, 100]).at(-1), 4);
    const work = bitOptions(BASE, source, { options: OPTIONS, device: DEVICE });
    const losses = work.groups.map((_, i) => [9, i === 0 ? 100 : 1, 0]);
    const made = chooseBySigmoid(
      work,
      sensitivitiesOf(work, losses, { by: "divergence", model: "m", text: null }),
    );
    // 4 bits where s is 2.6; else 6.3, as far from 8 as from 4 once rounded: the more.
    assert.deepEqual(made.chosen.map(({ option }) => option.name), [
      "W4A16",
      ...new Array(7).fill("W8A16"),
    ]);
  }));

Deno.test("lists of options that make no choice are refused", () => {
  assert.deepEqual(parseBitOptions("w4a16, bf16"), ["W4A16", "BF16"]);
  for (const text of ["W4A16", "W4A16,W4A16", "W4A16,W9A16", "", "F16,W4A16"]) {
    assert.throws(() => parseBitOptions(text), RequestError, text);
  }
});

Deno.test("options of two formats are refused, and fixed scales of activations", () =>
  withTiny((source) => {
    const options = (text: string, recipe = recipeFromOptions({})) => () =>
      bitOptions(recipe, source, { options: parseBitOptions(text), device: DEVICE });
    assert.throws(
      options("NF4,W8A8"),
      /NF4 is stored in bitsandbytes and W8A8 in compressed-tensors/,
    );
    assert.throws(
      options("W8A8,BF16", recipeFromOptions({ scheme: "W8A8", activations: "static" })),
      /fixed scales/,
    );
  }));
