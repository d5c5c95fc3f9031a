/**
 * A model of every family is calibrated, measured and read back: each stage's input is observed,
 * each weight gets its codes, and what was stored is what is run.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { graphsOf } from "../../src/graph/block_graph.ts";
import { modelOf } from "../../src/plan/model.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { verify } from "../../src/verify.ts";
import { folder, quantize, tinyWindows } from "../run_given.ts";
import { checkpointOf, MODELS } from "./given.ts";

/** Windows to calibrate on, and others to measure on. */
const CALIBRATION = { windows: tinyWindows(24, 48), stateBudget: 1e9 };
const EVALUATION = { windows: tinyWindows(32, 48).slice(24), stateBudget: 1e9 };
const TOKENS = 24 * 48;

const INT4 = { scheme: "W4A16", "group-size": 32 };

/** By what they ask for: the options, and whether a text must be seen. */
const RUNS: readonly (readonly [Readonly<Record<string, unknown>>, calibrated: boolean])[] = [
  [{ ...INT4, method: "rtn" }, false],
  [INT4, true],
  [{ scheme: "NF4" }, false],
  [{ scheme: "W8A8", method: "smoothquant" }, true],
];

for (const name of MODELS) {
  Deno.test(`the ${name} model is quantized with its taps observed, and better when calibrated`, async () => {
    await using model = await checkpointOf(name);
    await using into = await folder();
    await using backend = await openWasm({ threads: 1 });
    await using source = await openCheckpoint(model.path);
    const matrices = graphsOf(modelOf(source)).flatMap(({ matrices }) => matrices);
    const names = matrices.map(({ name }) => name).sort();
    const found: number[] = [];
    for (const [options, calibrated] of RUNS) {
      const { out, report } = await quantize(model.path, options, {
        backend,
        into: into.path,
        evaluation: EVALUATION,
        ...(calibrated ? { calibration: CALIBRATION } : {}),
      });
      const { tensors, scores, warnings } = report;
      assert.deepEqual(tensors.map(({ name }) => name).sort(), names);
      for (const { name, calibration } of tensors) {
        if (calibrated) assert.equal(calibration?.tokens, TOKENS, name);
        assert.equal(calibration?.fallback, undefined, name);
      }
      assert.deepEqual(
        warnings.filter(({ code }) => !["no-loader", "few-tokens"].includes(code)),
        [],
      );
      found.push(scores.divergence!.mean!);
      const checked = await verify(out, { backend, source });
      assert.equal(checked.quantized.length, names.length);
    }
    const [rounded, int4, nf4, int8] = found as [number, number, number, number];
    assert.ok(int4 < rounded, `calibrated ${int4}, rounded ${rounded}`);
    assert.ok(int8 < nf4 && nf4 < 4 * rounded, `W8A8 ${int8}, NF4 ${nf4}, W4A16 ${rounded}`);
  });
}

for (const name of ["gemma3", "qwen3_vl"]) {
  Deno.test(`of ${name}, the text is quantized, and the tower of pictures is left alone by name`, async () => {
    await using model = await checkpointOf(name);
    await using into = await folder();
    await using backend = await openWasm({ threads: 1 });
    await using source = await openCheckpoint(model.path);
    const tower = [...source.tensors.values()].filter(({ name, shape }) =>
      /vis(ion|ual)/.test(name) && /(fc1|fc2|proj|qkv)\.weight$/.test(name) && shape.length === 2
    );
    assert.ok(tower.length >= 2);
    const { out } = await quantize(model.path, { ...INT4, method: "rtn" }, {
      backend,
      into: into.path,
    });
    const { quantization_config: { ignore } } = JSON.parse(
      await Deno.readTextFile(join(out, "config.json")),
    );
    // A pattern of its own names all of a tower's layers; else each is listed.
    const isLeft = (module: string) =>
      ignore.some((pattern: string) =>
        pattern.startsWith("re:")
          ? new RegExp(`^(?:${pattern.slice(3)})`).test(module)
          : pattern === module
      );
    const modules = tower.map(({ name }) => name.replace(/\.weight$/, ""));
    assert.deepEqual(modules.filter((module) => !isLeft(module)), []);
    assert.ok(!isLeft(graphsOf(modelOf(source))[0]!.matrices[0]!.name.replace(/\.weight$/, "")));
  });
}
