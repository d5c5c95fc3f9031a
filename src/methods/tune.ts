/**
 * Training of codes and scales with quantization in the loop (as in AutoRound, Cheng et al., arXiv
 * 2309.05516): a block's weights are what their codes stand for on the way forward; on the way back
 * rounding counts as if it were not there (the straight-through estimator), and each weight's
 * latent, of which its code is the nearest, goes a step against the sign of its gradient. Steps
 * shrink to nothing, and altogether a latent travels half a code at most, so that those change
 * their code for which it pays over all windows.
 *
 * AutoRound adds an offset to w/s. Here the latent is what is trained, and begins where the weight
 * lies in the cell of the code that was chosen before. With codes held, weights are linear in their
 * scale, which has its gradient from that and goes along, by Adam. Zero points (`--zero-points`)
 * have one where weights are clipped, as in LSQ+; where none are they cancel out.
 *
 * GPTQ's codes make up for each other's errors, and where in its cell a weight lies says nothing of
 * them. Trained from the middle of their cells they end worse than they began (on the first block
 * of the sample model in 3 bits by a fifth, in 300 steps), and trained from rounding to nearest, in
 * 200 steps of 8 windows, more than a third worse than GPTQ's. So after GPTQ codes stay unless
 * `--lr` is given; scales alone are trained, for which fewer steps of fewer windows do.
 *
 * What is trained, on which windows, and which of the codes on the way are kept: see
 * calibration/tuning.ts.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { TrainingManner, TuningMethod } from "../method.ts";
import { upload } from "../linalg/channels.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import { startLatents } from "../ops/start_latents.ts";
import type { OptionValues } from "../option.ts";
import type { IntScheme, Quantized } from "../scheme.ts";
import { GRID, scaleCount, tileScalars } from "../schemes/tiles.ts";
import { elementCount } from "../tensor.ts";
import { copyOf, filled, type IntTensors, type Optimizer, TrainedCodes } from "./trained_codes.ts";

/**
 * Unless said. Scales settle soon: on the sample model in 3 bits, after GPTQ, twice as many steps
 * gain 0.6 % of the KL divergence.
 */
const DEFAULTS = {
  codes: { iterations: 200, batch: 8, scales: 0.001 },
  scales: { iterations: 80, batch: 4, scales: 0.005 },
};

/** See the head of this file. */
export const tune: TuningMethod = {
  kind: "tuning",
  name: "tune",
  options: [
    {
      name: "iterations",
      type: "integer",
      placeholder: "n",
      min: 1,
      help: "tune: steps of training for each block (80 after gptq, else 200)",
    },
    {
      name: "epochs",
      type: "number",
      placeholder: "n",
      min: 0.01,
      help: "tune: the same as times that training goes through the calibration's windows",
    },
    {
      name: "lr",
      type: "number",
      placeholder: "rate",
      min: 0,
      max: 1,
      help:
        "tune: the first step, in codes; steps shrink to 0 (default 1/iterations; after gptq 0: codes stay)",
    },
    {
      name: "scale-lr",
      type: "number",
      placeholder: "rate",
      min: 0,
      max: 0.1,
      help:
        "tune: the first step of scales, as a share of them (default 0.005 after gptq, else 0.001)",
    },
    {
      name: "optimizer",
      type: "string",
      choices: ["adam", "sign"],
      help:
        "tune: steps by running means of gradients, or by their signs (sign for codes and adam for scales, unless given)",
    },
    {
      name: "zero-points",
      type: "boolean",
      help: "tune: train zero points too, where codes are trained and have some",
    },
    {
      name: "weight-loss",
      type: "number",
      placeholder: "alpha",
      min: 0,
      help:
        "tune: a loss of alpha·‖W − Ŵ‖² beside the squared error of a token's output (default 0)",
    },
    {
      name: "kl-blocks",
      type: "integer",
      placeholder: "n",
      min: 0,
      help:
        "tune: train the last n blocks for the KL divergence of the model's predictions, through " +
        "the blocks after them as they were (default 0)",
    },
    {
      name: "gradients",
      type: "string",
      choices: ["f32", "bf16"],
      help: "tune: keep gradients by weights in f32 (the default), or in bf16: half the memory",
    },
    {
      name: "batch-size",
      type: "integer",
      placeholder: "n",
      min: 1,
      help: "tune: windows of each step (4 after gptq, else 8)",
    },
  ],
  needs: () => [],
  supports(scheme, { iterations, epochs }) {
    if (iterations !== undefined && epochs !== undefined) {
      return "`iterations` and `epochs` both say how long to train; give one of them";
    }
    if (scheme.kind !== "int") return `tune trains codes of int, not of ${scheme.kind}`;
    const { kind } = scheme.strategy;
    return kind === "channel" || kind === "group" ||
      `tune trains scales per channel or group, not per ${kind}`;
  },
  schedule(manner, windows) {
    const { options: { epochs, ...options } } = manner;
    const usual = DEFAULTS[trainsCodes(manner) ? "codes" : "scales"];
    const batch = Math.min(windows, Number(options["batch-size"] ?? usual.batch));
    const iterations = epochs === undefined
      ? Number(options.iterations ?? usual.iterations)
      : Math.max(1, Math.round(Number(epochs) * windows / batch));
    const codes = trainsCodes(manner) ? Number(options.lr ?? 1 / iterations) : 0;
    return {
      iterations,
      batch,
      rates: { codes, scales: Number(options["scale-lr"] ?? usual.scales) },
      gradients: options.gradients === "bf16" ? "bf16" : "f32",
      klBlocks: Number(options["kl-blocks"] ?? 0),
    };
  },
  bytes({ scheme, shape }, manner) {
    // Scales that are not rounded, the best, gradients and what Adam remembers of them.
    const tiles = scaleCount((scheme as IntScheme).strategy, shape) * 4;
    const count = elementCount(shape);
    // What was rounded, and values while they are compared with it.
    const target = weightLoss(manner.options) > 0 ? count * 4 : 0;
    if (!trainsCodes(manner)) return { held: target, steps: target + tiles * 5 };
    // Latents; the best codes, what Adam remembers, and ones for scales; zero points as scales.
    const zeros = trainsZeros(manner, scheme as IntScheme) ? tiles * 5 : 0;
    return { held: count * 4 + target, steps: count * (1 + 2 * 4) + target + tiles * 6 + zeros };
  },
  open({ target, quantized, scope, ...manner }) {
    const latents = trainsCodes(manner)
      ? latentsOf(quantized, { target: manner.compensated ? undefined : target, scope })
      : undefined;
    const pull = weightLoss(manner.options);
    const origin = pull > 0 ? copyOf(target, scope) : undefined;
    return {
      quantized,
      begin(scope, rowFactors) {
        if (origin && rowFactors) {
          const factor = upload(rowFactors, scope);
          scope.backend.run(scaleRows, { factor, y: origin }, { scale_dtype: 0 });
        }
        return new TrainedCodes(quantized, {
          latents,
          origin: origin && { tensor: origin, pull },
          zeros: trainsZeros(manner, quantized.scheme as IntScheme),
          optimizer: manner.options.optimizer as Optimizer | undefined,
          scope,
        });
      },
    };
  },
};

/** Whether codes are trained, or scales alone. */
function trainsCodes({ options, compensated }: TrainingManner): boolean {
  return !compensated || Number(options.lr ?? 0) > 0;
}

/** Whether zero points are trained: with codes, and where there are some. */
function trainsZeros(manner: TrainingManner, { grid }: IntScheme): boolean {
  return manner.options["zero-points"] === true && trainsCodes(manner) && grid === "affine";
}

/** The weight of ‖W − Ŵ‖² in the loss. */
function weightLoss(options: OptionValues): number {
  return Number(options["weight-loss"] ?? 0);
}

/** Where codes begin: where their targets lie in their cells, or in the middle of them. */
function latentsOf(
  { scheme, tensors }: Quantized,
  { target, scope }: { readonly target: Tensor | undefined; readonly scope: Scope },
): Tensor {
  const { codes, scale, zero } = tensors as IntTensors;
  const { backend } = scope;
  const u = scope.alloc("f32", codes.shape);
  const { bits, grid, strategy } = scheme as IntScheme;
  const tiles = tileScalars(strategy, codes.shape);
  if (target) {
    const scalars = { bits, grid: GRID[grid], ...tiles };
    backend.run(startLatents, { w: target, codes, scale, zero, u }, scalars);
  } else {
    using scratch = backend.scope();
    const ones = filled(scale.shape, 1, scratch);
    backend.run(dequantizeInt, { codes, scale: ones, zero, w: u }, tiles);
  }
  return u;
}
