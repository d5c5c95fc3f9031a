/**
 * Healthy models that have zeros: a projection, a norm, a row, a group. Every method quantizes
 * them, to something sensible.
 */
import assert from "node:assert/strict";
import type { Backend } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { verify } from "../src/verify.ts";
import { folder, quantize, tinyWindows } from "./run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const CALIBRATION = { windows: tinyWindows(4, 40), stateBudget: 1e7 };
const EVALUATION = { windows: tinyWindows(3, 12), stateBudget: 1e7 };

/** A part of a tensor's bf16 values that is zero. */
interface Zeros {
  readonly name: string;
  readonly from?: number;
  readonly to?: number;
}

const attention = (part: string): Zeros => ({ name: `model.layers.1.self_attn.${part}.weight` });
const mlp = (part: string): Zeros => ({ name: `model.layers.0.mlp.${part}.weight` });

/** What is zero in each model: things that do not hide one another. */
const ZEROS: Readonly<Record<string, readonly Zeros[]>> = {
  "q_proj, gate_proj": [attention("q_proj"), mlp("gate_proj")],
  "k_proj, up_proj": [attention("k_proj"), mlp("up_proj")],
  "v_proj, down_proj": [attention("v_proj"), mlp("down_proj")],
  "o_proj, a group of up_proj, a channel of a norm": [
    attention("o_proj"),
    { ...mlp("up_proj"), from: 96, to: 128 },
    { name: "model.layers.0.input_layernorm.weight", from: 5, to: 6 },
  ],
  "the norms, a row of v_proj": [
    { name: "model.layers.1.input_layernorm.weight" },
    { name: "model.layers.0.post_attention_layernorm.weight" },
    { name: "model.layers.0.self_attn.v_proj.weight", from: 64, to: 128 },
  ],
};

const W4 = { scheme: "W4A16", "group-size": 32 };
const CHAINS: readonly Record<string, string | number | boolean>[] = [
  { ...W4, method: "auto" },
  { scheme: "W4A16_ASYM", "group-size": 32, method: "auto" },
  { ...W4, method: "gptq", refit: true },
  { ...W4, method: "awq" },
  { ...W4, "group-size": -1, method: "awq+gptq" },
  { ...W4, method: "awq+hqq" },
  { ...W4, method: "auto", propagate: false },
  { ...W4, method: "hqq" },
  { scheme: "W3A16_ASYM", "group-size": 32, method: "hqq" },
  ...["minmax", "mse", "frobenius", "hessian"].map((scale) => ({ ...W4, method: "rtn", scale })),
  { scheme: "W8A8", method: "smoothquant" },
  { scheme: "W8A8", method: "smoothquant", alpha: 0.5 },
  { scheme: "W8A8", method: "smoothquant+gptq", activations: "static" },
  { scheme: "W8A8", method: "rtn", activations: "static", observer: "mse" },
  { scheme: "W3A16", "group-size": 32, method: "gptq", scale: "frobenius", sweeps: 5 },
  { scheme: "LLM_INT8", method: "rtn" },
  { scheme: "NF4", method: "rtn" },
  { scheme: "NF4", method: "awq+gptq" },
  { scheme: "FP8_DYNAMIC", method: "smoothquant", activations: "static", observer: "percentile" },
];

/** The tiny model with zeros, quantized and measured, and read back. */
async function make(
  options: Record<string, unknown>,
  backend: Backend,
  zeros: readonly Zeros[] = [],
): Promise<{ divergence: number; noise: Map<string, number> }> {
  await using into = await folder();
  const model = await makeCheckpoint(tinyTensors(), {
    config: TINY_CONFIG,
    change(name, bytes) {
      livelyNorms("bf16")(name, bytes);
      for (const { from = 0, to } of zeros.filter((zero) => zero.name === name)) {
        bytes.fill(0, 2 * from, to && 2 * to);
      }
    },
  });
  const { out, report } = await quantize(model, options, {
    backend,
    into: into.path,
    evaluation: EVALUATION,
    calibration: CALIBRATION,
  });
  await using source = await openCheckpoint(model);
  const { quantized } = await verify(out, { backend, source });
  await Deno.remove(model, { recursive: true });
  return {
    divergence: report.scores.divergence!.mean!,
    noise: new Map(quantized.map(({ name, metrics }) => [name, metrics.sqnr_db!])),
  };
}

for (const options of CHAINS) {
  const title = Object.entries(options).map(([key, value]) => `${key} ${value}`).join(", ");
  Deno.test(`models with zeros are quantized as well as others: ${title}`, async () => {
    await using backend = await openWasm({ threads: 2 });
    const usual = await make(options, backend);
    for (const [what, zeros] of Object.entries(ZEROS)) {
      const { divergence, noise } = await make(options, backend, zeros);
      assert.ok(divergence < 2 * usual.divergence, `${what}: KL ${divergence}`);
      for (const [name, decibels] of noise) {
        // Of zeros there is no signal.
        const zero = zeros.some((zero) => zero.name === name && zero.to === undefined);
        assert.ok(
          zero ? !Number.isNaN(decibels) : decibels > 5,
          `${what}, ${name}: ${decibels} dB`,
        );
      }
    }
  });
}
