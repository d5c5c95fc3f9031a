/**
 * Static activations: scales that are what the inputs were, refusals, the same bytes every time.
 */
import assert from "node:assert/strict";
import type { Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { Calibration } from "../src/calibration/pass.ts";
import { parseHeader } from "../src/containers/safetensors.ts";
import { CheckpointError, UnsupportedError } from "../src/errors.ts";
import { evaluate } from "../src/evaluate.ts";
import { graphsOf, type Stage } from "../src/graph/block_graph.ts";
import { roundTo } from "../src/number.ts";
import { modelOf } from "../src/plan/model.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { StepCounter } from "../src/report.ts";
import type { TensorSource } from "../src/source.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { verify } from "../src/verify.ts";
import { LoadedBlock } from "../src/forward/loaded_block.ts";
import { originalWeights } from "../src/forward/weights.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";
import { CALIBRATION, EVALUATION, floatsOf, loudLlama, quantizeLoud } from "./loud_given.ts";

/**
 * The largest input of the first block's q, k and v over the calibration windows, by the norm's
 * weight that `norms` has.
 */
async function firstInputs(model: TensorSource, norms: TensorSource): Promise<number> {
  const table = await floatsOf(model, "model.embed_tokens.weight");
  const weight = await floatsOf(norms, "model.layers.0.input_layernorm.weight");
  let most = 0;
  for (const token of CALIBRATION.windows.flatMap((window) => [...window])) {
    const x = table.subarray(64 * token, 64 * (token + 1));
    const mean = x.reduce((sum, value) => sum + value ** 2, 0) / 64;
    x.forEach((value, c) => {
      most = Math.max(most, Math.abs(value / Math.sqrt(mean + 1e-5) * weight[c]!));
    });
  }
  return most;
}

const scaleOf = async (source: TensorSource, linear: string) =>
  (await floatsOf(source, `model.layers.0.${linear}.input_scale`))[0]!;

for (const method of ["rtn", "smoothquant", "smoothquant+gptq", "awq"]) {
  Deno.test(`with ${method} the fixed scale is that of the inputs as the linears get them, one for all that share an input`, async () => {
    await using model = await loudLlama();
    await using source = await openCheckpoint(model.path);
    await using backend = await openWasm({ threads: 1 });
    for (const [scheme, steps] of [["W8A8", 127.5], ["FP8_DYNAMIC", 448]] as const) {
      const options = { scheme, method, activations: "static", observer: "min-max" };
      await using made = await quantizeLoud(model.path, options, backend);
      const want = await firstInputs(source, made.output) / steps;
      const scale = await scaleOf(made.output, "self_attn.q_proj");
      assert.ok(Math.abs(scale - want) <= 1e-5 * want, `${scale}, not ${want}`);
      assert.equal(await scaleOf(made.output, "self_attn.k_proj"), scale);
      assert.equal(await scaleOf(made.output, "self_attn.v_proj"), scale);
      assert.equal(
        await scaleOf(made.output, "mlp.gate_proj"),
        await scaleOf(made.output, "mlp.up_proj"),
      );
      const facts = made.report.tensors.find(({ name }) => name.endsWith("q_proj.weight"))!;
      assert.equal(facts.calibration!.inputScale, scale);
      const scores = await evaluate(made.output, {
        backend,
        reference: source,
        evaluation: EVALUATION,
      });
      assert.deepEqual(scores, made.report.scores, "what was stored is what was measured");
      // Of targets that were moved a lot, as few tokens move them, verify() cannot tell what they
      // were.
      if (method === "awq") continue;
      const { quantized } = await verify(made.out, { backend, source });
      assert.equal(quantized.length, 14);
    }
  });
}

Deno.test("static activations lose more than dynamic ones, and less with smoothing, by every observer", async () => {
  await using model = await loudLlama();
  await using backend = await openWasm({ threads: 1 });
  const loss = async (options: Record<string, unknown>) => {
    await using made = await quantizeLoud(model.path, { scheme: "W8A8", ...options }, backend);
    return made.report.scores.divergence!.mean!;
  };
  const dynamic = await loss({ method: "rtn" });
  const fixed = { activations: "static" };
  for (const observer of ["min-max", "mse", "percentile"]) {
    const rough = await loss({ method: "rtn", ...fixed, observer });
    const smooth = await loss({ method: "smoothquant", ...fixed, observer });
    assert.ok(dynamic < rough, `${observer}: ${rough} and ${dynamic}`);
    assert.ok(smooth < rough, `${observer}: ${smooth} and ${rough}`);
  }
});

Deno.test("scales of inputs are rounded to the dtype of scales", async () => {
  await using model = await loudLlama("bf16");
  await using backend = await openWasm({ threads: 1 });
  const options = { scheme: "W8A8", method: "rtn", activations: "static" };
  await using made = await quantizeLoud(model.path, options, backend);
  const scale = await scaleOf(made.output, "mlp.down_proj");
  assert.equal(scale, roundTo("bf16", scale));
  assert.equal(made.output.tensors.get("model.layers.0.mlp.down_proj.input_scale")!.dtype, "bf16");
});

const DEVICE = {
  name: "reference",
  maxTensorBytes: 2 ** 30,
  sliceBytes: 2 ** 22,
  productRows: 1,
  busyRows: 1,
  software: false,
} as const;
const WINDOWS = { seqLen: 16, windows: 2, stateBudget: 1e6 };

/** Why a recipe is refused. */
async function refusal(
  recipe: Parameters<typeof plan>[0],
  calibration: typeof WINDOWS | null = WINDOWS,
): Promise<string> {
  await using model = await loudLlama();
  await using source = await openCheckpoint(model.path);
  try {
    plan(recipe, source, {
      device: { ...DEVICE, supports: () => true },
      ...(calibration ? { calibration } : {}),
    });
  } catch (error) {
    if (error instanceof UnsupportedError) return error.message;
    throw error;
  }
  return "";
}

Deno.test("plan() refuses static activations without a text to see, in formats without a place for them, and where fused layers differ", async () => {
  const fixed = { scheme: "W8A8", method: "rtn", activations: "static" };
  assert.equal(await refusal(recipeFromOptions(fixed)), "");
  assert.match(
    await refusal(recipeFromOptions(fixed), null),
    /with static activations without calibration: .* or dynamic activations, which need none\.$/,
  );
  assert.match(
    await refusal(recipeFromOptions({ ...fixed, format: "gptq" })),
    /gptq cannot hold .* rounds activations too; compressed-tensors holds it/,
  );
  const recipe = (rule: string) =>
    parseRecipe(
      `
scheme: W8A8
method: rtn
activations: static
rules:
  - { match: ${rule}, scheme: W8A8, method: rtn, activations: static, observer: min-max }
`,
      "a.yaml",
    );
  assert.match(
    await refusal(recipe('"*.k_proj"')),
    /must share one scheme \(and for static activations one observer\)/,
  );
  assert.equal(await refusal(recipe('"*.down_proj"')), "");
  assert.match(
    await refusal(recipe('"lm_head"')),
    /"lm_head.weight": a fixed scale of activations must see its inputs, .* dynamic activations need none/,
  );
});

Deno.test("the memory plan counts what observers and samples hold", async () => {
  await using model = await loudLlama();
  await using source = await openCheckpoint(model.path);
  const memory = (options: Record<string, unknown>, windows = WINDOWS) =>
    plan(recipeFromOptions({ scheme: "W8A8", ...options }), source, {
      device: { ...DEVICE, supports: () => true },
      calibration: windows,
    }).memory;
  const plain = memory({ method: "rtn", activations: "static", observer: "min-max" });
  assert.ok(plain.calibration > 0);
  const counted = memory({ method: "rtn", activations: "static", observer: "mse" });
  assert.equal(counted.calibration - plain.calibration, 131_072 * 4, "bins");
  const smooth = memory({ method: "smoothquant" });
  assert.ok(smooth.calibration - plain.calibration > 512 * 64 * 4, "the sample");
  const both = memory({ method: "smoothquant+gptq" });
  assert.ok(both.calibration > smooth.calibration && both.states > smooth.states);
});

Deno.test("a stored checkpoint without its scales of inputs, or with one that is not finite, is named as broken", async () => {
  await using model = await loudLlama();
  await using backend = referenceBackend();
  const options = { scheme: "W8A8", method: "rtn", activations: "static" };
  await using made = await quantizeLoud(model.path, options, backend);
  const name = "model.layers.1.mlp.up_proj.input_scale";
  const file = `${made.out}/model.safetensors`;
  const whole = await Deno.readFile(file);
  const { tensors } = parseHeader(whole, { file, fileSize: whole.length });
  const { begin } = tensors.find((tensor) => tensor.name === name)!;
  const spoiled = async (change: (bytes: Uint8Array<ArrayBuffer>) => void, says: RegExp) => {
    const bytes = whole.slice();
    change(bytes);
    await Deno.writeFile(file, bytes);
    await assert.rejects(
      verify(made.out, { backend }),
      (error) => error instanceof CheckpointError && says.test(error.message),
    );
  };
  const at = new TextDecoder("latin1").decode(whole).indexOf(name);
  await spoiled((bytes) => bytes[at + name.length - 1] = 0x64, /input_scale" must be f32\[1\]/);
  for (const value of [NaN, Infinity, 0, -1]) {
    const scale = new Uint8Array(Float32Array.of(value).buffer);
    await spoiled(
      (bytes) => bytes.set(scale, begin),
      /up_proj.weight": one of its scales is|the scale of its input is/,
    );
  }
});

Deno.test("a second look sees each step's input as the pass saw it, times what scales made of it since", async () => {
  await using model = await loudLlama();
  await using source = await openCheckpoint(model.path);
  await using backend = await openWasm({ threads: 1 });
  const known = modelOf(source);
  const weights = originalWeights(source);
  await using calibration = new Calibration(known, {
    backend,
    input: CALIBRATION,
    propagate: false,
    counter: new StepCounter(() => {}),
  });
  await calibration.embed(weights);
  const graph = graphsOf(known)[0]!;
  using scope = backend.scope();
  const tensors = await LoadedBlock.load(graph, weights, { scope });
  const read = async (x: Tensor) => new Float32Array((await backend.read(x))[0]!.buffer);
  // What is kept is scaled; what is computed anew has its scales from the tensors it is computed
  // with.
  const isKept = ({ at, input }: Stage) => graph.resumption(at).states.includes(input);
  assert.deepEqual(graph.stages.map(isKept), [false, true, false, true]);
  for (const to of graph.stages) {
    const seen: Float32Array[] = [];
    await calibration.pass({
      graph,
      quantized: tensors,
      to,
      observe: async (x) => void seen.push(await read(x)),
    });
    const looked: Float32Array[] = [];
    const factor = scope.alloc("f32", [1, to.channels]);
    backend.write(factor, new Uint8Array(new Float32Array(to.channels).fill(0.5).buffer));
    await calibration.look({
      graph,
      tensors,
      inputFactor: isKept(to) ? factor : undefined,
    }, {
      open: () => ({
        add: async (x) => void looked.push(await read(x)),
        save: () => Promise.reject(new Error("one shard is not saved")),
        restore: () => Promise.reject(new Error("one shard is not saved")),
      }),
      scope,
    });
    const times = isKept(to) ? 0.5 : 1;
    assert.deepEqual(looked, seen.map((x) => x.map((value) => value * times)), to.input);
  }
});

Deno.test("inputs that are not finite on the calibration text are named, by every observer", async () => {
  const name = "model.layers.1.input_layernorm.weight";
  const model = await makeCheckpoint(tinyTensors("f32"), {
    config: TINY_CONFIG,
    change(tensor, bytes) {
      if (tensor === name) new Float32Array(bytes.buffer)[5] = Infinity;
    },
  });
  await using backend = await openWasm({ threads: 1 });
  for (const observer of ["min-max", "moving-average", "mse", "percentile"]) {
    const options = { scheme: "W8A8", method: "rtn", activations: "static", observer };
    await assert.rejects(quantizeLoud(model, options, backend), (error) => {
      assert.ok(error instanceof CheckpointError, String(error));
      assert.match(
        error.message,
        /Cannot fix a scale for the input of "model\.layers\.1\..*q_proj/,
      );
      return true;
    });
  }
  await Deno.remove(model, { recursive: true });
});
