/** Blocks quantized with calibration (calibrated_block.ts tells how), packed and written. */
import type { Scope, Tensor } from "./backend.ts";
import { Calibration, type CalibrationInput } from "./calibrate.ts";
import { quantizeBlock, type QuantizedWeight, unscaled } from "./calibrated_block.ts";
import type { Block, Model } from "./family.ts";
import type { Plan } from "./plan.ts";
import type { Reporter, StepCounter } from "./report.ts";
import {
  type Context,
  finishWeight,
  keepPacked,
  openMeasures,
  type RunOptions,
  sample,
  writePieces,
} from "./run_context.ts";
import { LoadedBlock, type ModelWeights } from "./weights.ts";

/** The calibration of a plan that has one. */
export async function openCalibration(
  { model, calibration: planned, propagate }: Plan,
  { backend, calibration: input, report = () => {} }: RunOptions,
  counter: StepCounter,
): Promise<Calibration | undefined> {
  if (!planned || !model) return undefined;
  if (input?.windows.length !== planned.windows) {
    throw new RangeError(
      `Cannot run the plan: it calibrates on ${planned.windows} windows, got ${
        input?.windows.length ?? 0
      }`,
    );
  }
  warnOfFewTokens(model, input, report);
  return await Calibration.open(model, { backend, input, propagate, counter });
}

/** A Gram matrix of fewer tokens than it has rows does not have full rank. */
function warnOfFewTokens(
  { blocks }: Model,
  { windows }: CalibrationInput,
  report: Reporter,
): void {
  const tokens = windows.length * windows[0]!.length;
  const widest = Math.max(...blocks.flatMap(({ steps }) => steps.map(({ channels }) => channels)));
  if (tokens >= widest) return;
  report({
    type: "warning",
    code: "few-tokens",
    message:
      `Calibrating on ${tokens} tokens, fewer than the ${widest} inputs of the widest layer: ` +
      "the result will be worse than it could be. Use more windows (`numSamples`) or longer ones (`seqLen`).",
  });
}

/** Quantize a block with calibration, and write it; the block as it was, on the device until `scope` ends. */
export async function calibrateBlock(
  block: Block,
  { context, calibration, original, scope }: {
    context: Context;
    calibration: Calibration;
    original: ModelWeights;
    scope: Scope;
  },
): Promise<LoadedBlock> {
  const { backend, plan, watch, phases } = context;
  const loaded = await phases.time("load", () => LoadedBlock.load(block, original, { scope }));
  using held = backend.scope();
  const last = plan.model?.blocks.at(-1) === block;
  const quantized = await watch.time(
    "compute",
    0,
    () => quantizeBlock(block, { ...context, calibration, original: loaded, scope: held, last }),
  );
  sample(context);
  for (const weight of quantized.weights) await packWeight(weight, loaded, context);
  for (const [name, tensor] of quantized.norms) await writeNorm(name, tensor, context);
  for (
    const { source: { name }, fate } of plan.blocks.find(({ name }) => name === block.name)!.steps
  ) {
    // A norm whose scales were all 1.
    if (fate.kind === "scale" && !quantized.norms.has(name)) {
      await writeNorm(name, loaded.weight(name), context);
    }
  }
  return loaded;
}

/** Write a tensor that calibration may have changed. */
async function writeNorm(name: string, tensor: Tensor, context: Context): Promise<void> {
  const [bytes] = await context.backend.read(tensor);
  if (context.evaluation) context.packed.set(name, new Uint8Array(bytes!.length));
  await writePieces([{ tensor: name, offset: 0, bytes: bytes! }], context);
  context.report({ type: "copied", name, bytes: bytes!.length });
}

/** Pack and write a weight whose codes were chosen. */
async function packWeight(
  weight: QuantizedWeight,
  loaded: LoadedBlock,
  context: Context,
): Promise<void> {
  const { planned, slices, facts } = weight;
  const { source: tensor, fate, outputs } = planned;
  if (fate.kind !== "quantize") return;
  const { backend, plan, phases } = context;
  keepPacked(outputs, context);
  using scope = backend.scope();
  const packer = plan.format.packer(tensor, fate.scheme, scope);
  using measures = openMeasures(fate.scheme, context);
  for (const { rows, quantized } of slices) {
    context.signal?.throwIfAborted();
    await writePieces(await phases.time("pack", () => packer.add(quantized, rows)), context);
    if (!measures) continue;
    await phases.time("measure", async () => {
      using scratch = backend.scope();
      const ids = Uint32Array.from({ length: rows.to - rows.from }, (_, i) => rows.from + i);
      const values = unscaled(weight, { rows, quantized, scope: scratch });
      await measures.add(loaded.rows(tensor.name, ids, scratch), quantized, values);
    });
  }
  await writePieces(await phases.time("pack", () => packer.finish()), context);
  finishWeight(planned, { measures, context, calibration: facts });
}
