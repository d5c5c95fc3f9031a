/**
 * The two backends on the sample model: rounded to nearest, the same codes and perplexity;
 * calibrated, the same perplexity.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { evaluate } from "../src/evaluate.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import type { Backend } from "../src/backend.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";

async function quantize(
  backend: Backend,
  options: Record<string, unknown>,
  { out, ignore = [] }: { readonly out: string; readonly ignore?: readonly string[] },
): Promise<RunReport> {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const evaluation = await prepareWindows(source, { seqLen: 96, numSamples: 2 });
  const calibration = await prepareCalibration(source, { seqLen: 128, numSamples: 4 });
  const work = plan(recipeFromOptions(options, ignore), source, {
    device: backend,
    evaluation: requestOf(evaluation),
    calibration: requestOf(calibration),
  });
  await using sink = await openFolderSink(out);
  return await run(work, { source, backend, sink, evaluation, calibration });
}

/** Tokens that a quantized run is scored on. */
const SCORED = 2 * 95;

/**
 * By how much the mean negative log-likelihoods of two devices may differ. With float activations
 * both compute one function, and f32 sums in another order move a logit by some 1e-5 of its size.
 * Where activations are rounded, the last bit of one decides ties, every flip moves what later
 * layers round, and after some layers the two have roundings of their own. A shift of logits that
 * costs KL k moves a token's log-likelihood by a variance of 2k, two of them that are independent
 * by 4k; of the mean over n tokens that leaves a deviation of 2·√(k/n), of which four are allowed.
 */
function allowedNll(kl: number, rounded: boolean): number {
  return rounded ? 8 * Math.sqrt(kl / SCORED) : 1e-4;
}

for (
  const { options, rounded } of [
    { options: { scheme: "W4A16", "group-size": 64, method: "rtn" }, rounded: false },
    { options: { scheme: "NF4" }, rounded: false },
    { options: { scheme: "W8A8" }, rounded: true },
    { options: { scheme: "LLM_INT8" }, rounded: true },
  ]
) {
  Deno.test({
    name:
      `webgpu and wasm agree on the sample model in ${options.scheme}: the same codes, perplexity within rounding`,
    ignore: ABSENT_GPU !== undefined,
    async fn() {
      const folder = await Deno.makeTempDir();
      await using cpu = await openWasm();
      await using gpu = await openTestGpu();
      const [one, other] = [join(folder, "wasm"), join(folder, "webgpu")];
      const a = await quantize(cpu, options, { out: one });
      const b = await quantize(gpu, options, { out: other });
      await using first = await openCheckpoint(one);
      await using second = await openCheckpoint(other);
      let [differing, all] = [0, 0];
      for (const { name, dtype } of first.tensors.values()) {
        const [x, y] = [await first.read(name), await second.read(name)];
        assert.equal(x.length, y.length);
        if (!["i32", "u8", "i8"].includes(dtype)) continue;
        all += x.length;
        for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) differing++;
      }
      assert(all > 1e6);
      // Quotients are IEEE's on both; where they were a unit off, some 2e-3 of the codes would
      // differ.
      assert(differing / all <= 1e-5, `${differing} of ${all} bytes of codes differ`);
      const [p, q] = [a.scores, b.scores];
      const [kl, otherKl] = [p.divergence!.mean!, q.divergence!.mean!];
      const allowed = allowedNll(Math.max(kl, otherKl), rounded);
      const apart = Math.abs(p.perplexity!.nll! - q.perplexity!.nll!);
      assert(apart <= allowed, `likelihoods are ${apart} apart, ${allowed} is allowed`);
      // Noise of its own, but as much of it: to within what the tokens' spread leaves open.
      const spread = 4 * Math.hypot(p.divergence!.standard_error!, q.divergence!.standard_error!);
      assert(
        Math.abs(kl - otherKl) <= (rounded ? spread : 0.01 * kl),
        `KL divergence ${kl} on wasm, ${otherKl} on webgpu`,
      );
      await Deno.remove(folder, { recursive: true });
    },
  });
}

Deno.test({
  name:
    "webgpu and wasm agree on the calibrated sample model: perplexity within 5e-3, KL within a tenth",
  ignore: ABSENT_GPU !== undefined,
  async fn() {
    const folder = await Deno.makeTempDir();
    await using cpu = await openWasm();
    await using gpu = await openTestGpu();
    const options = { scheme: "W4A16_ASYM", "group-size": 64, "awq-rows": 32 };
    await using reference = await openCheckpoint(SAMPLE_MODEL);
    const evaluation = await prepareWindows(reference, { seqLen: 512, numSamples: 8 });
    const measure = async (backend: Backend, name: string) => {
      // Two of four blocks: a software GPU takes its time, and the second sees what the first did.
      await quantize(backend, options, {
        out: join(folder, name),
        ignore: ["*.layers.2.*", "*.layers.3.*"],
      });
      await using source = await openCheckpoint(join(folder, name));
      const scores = await evaluate(source, { backend: cpu, evaluation, reference });
      return [scores.perplexity!.perplexity!, scores.divergence!.mean!] as const;
    };
    const [p, k] = await measure(cpu, "wasm");
    const [q, l] = await measure(gpu, "webgpu");
    assert(Math.abs(p / q - 1) <= 5e-3, `perplexity ${p} on wasm, ${q} on webgpu`);
    assert(Math.abs(k / l - 1) <= 0.1, `KL divergence ${k} on wasm, ${l} on webgpu`);
    await Deno.remove(folder, { recursive: true });
  },
});
