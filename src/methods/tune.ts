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
 * scale, which has its gradient from that and goes along, in smaller steps. Zero points stay.
 *
 * GPTQ's codes make up for each other's errors, and where in its cell a weight lies says nothing of
 * them: many lie at the edge or beyond it, and would change at once, each for the better if it were
 * alone, together for the worse (on the sample model in 3 bits a block's error grew to the fourfold).
 * So after GPTQ latents begin in the middle of their cells: unless `--lr` is larger, codes stay, and
 * scales are trained.
 *
 * What is trained, on which windows, and which of the codes on the way are kept: see
 * calibration/tuning.ts.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { TrainingSteps, TuningMethod } from "../method.ts";
import { adam } from "../ops/adam.ts";
import { copyRectangle } from "../ops/copy.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { quantizeInt } from "../ops/quantize_int.ts";
import { scaleSlopes } from "../ops/scale_slopes.ts";
import { startLatents } from "../ops/start_latents.ts";
import { stepLatents } from "../ops/step_latents.ts";
import { stepScales } from "../ops/step_scales.ts";
import type { IntScheme, Quantized } from "../scheme.ts";
import { GRID, SCALE_DTYPE, scaleCount, tileScalars } from "../schemes/tiles.ts";
import { elementCount, type Shape } from "../tensor.ts";

const ITERATIONS = 200;
const BATCH = 8;

/** Of Adam; without decay it goes by the sign of the gradient alone. */
const DECAYS = {
  adam: { mean: 0.9, square: 0.99 },
  sign: { mean: 0, square: 0 },
};

/** The steps of scales, as a share of themselves, beside those of latents in codes. */
const SCALE_SHARE = 0.1;

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
      default: ITERATIONS,
      help: "tune: steps of training for each block",
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
      help: "tune: the first step, in codes; steps shrink to 0 (default 1/iterations)",
    },
    {
      name: "optimizer",
      type: "string",
      choices: ["adam", "sign"],
      default: "adam",
      help: "tune: steps by running means of gradients, or by the signs of gradients alone",
    },
    {
      name: "batch-size",
      type: "integer",
      placeholder: "n",
      min: 1,
      default: BATCH,
      help: "tune: windows of each step",
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
  schedule(options, windows) {
    const batch = Math.min(windows, Number(options["batch-size"] ?? BATCH));
    const { epochs } = options;
    const iterations = epochs === undefined
      ? Number(options.iterations ?? ITERATIONS)
      : Math.max(1, Math.round(Number(epochs) * windows / batch));
    return { iterations, batch, rate: Number(options.lr ?? 1 / iterations) };
  },
  bytes(scheme, shape) {
    // Codes of the best; its scales, those that are not rounded, and ones.
    const tiles = scaleCount((scheme as IntScheme).strategy, shape);
    return { held: elementCount(shape) * 4, steps: elementCount(shape) + tiles * 3 * 4 };
  },
  open({ target, quantized, options, compensated, scope }) {
    const { codes, scale, zero } = quantized.tensors as IntTensors;
    const u = scope.alloc("f32", target.shape);
    const { strategy } = quantized.scheme as IntScheme;
    const tiles = tileScalars(strategy, target.shape);
    if (!compensated) {
      scope.backend.run(startLatents, { w: target, codes, scale, zero, u }, tiles);
    } else {
      using scratch = scope.backend.scope();
      const of = { codes, scale: filled(scale.shape, 1, scratch), zero };
      scope.backend.run(dequantizeInt, { ...of, w: u }, tiles);
    }
    const decays = DECAYS[options.optimizer === "sign" ? "sign" : "adam"];
    return { quantized, begin: (scope) => new Steps(quantized, { latents: u, decays, scope }) };
  },
};

/** Of an int weight. */
type IntTensors = Readonly<Record<"codes" | "scale" | "zero", Tensor>>;

class Steps implements TrainingSteps {
  readonly #backend: Backend;
  readonly #scheme: IntScheme;
  readonly #now: IntTensors;
  /** f32[R, C]: of which codes are the nearest, in units of the scale, zero point apart. */
  readonly #latents: Tensor;
  /** f32[A, B]: scales before they are rounded, and those of latents. */
  readonly #wide: Tensor;
  readonly #ones: Tensor;
  /** f32[A, B]: the gradient by scales. */
  readonly #slope: Tensor;
  readonly #ofWeights: Direction;
  readonly #ofScales: Direction;
  #steps = 0;
  readonly #best: Pick<IntTensors, "codes" | "scale">;

  constructor(
    { scheme, tensors }: Quantized,
    { latents, decays, scope }: {
      readonly latents: Tensor;
      readonly decays: Decays;
      readonly scope: Scope;
    },
  ) {
    this.#backend = scope.backend;
    this.#scheme = scheme as IntScheme;
    this.#now = tensors as IntTensors;
    this.#latents = latents;
    const { codes, scale } = this.#now;
    this.#wide = copyOf(scale, scope);
    this.#ones = filled(scale.shape, 1, scope);
    this.#slope = scope.alloc("f32", scale.shape);
    this.#ofWeights = new Direction(codes, { decays, scope });
    this.#ofScales = new Direction(scale, { decays, scope });
    this.#best = { codes: scope.alloc("i8", codes.shape), scale: copyOf(scale, scope) };
    this.keep();
  }

  step(gradient: Tensor, rate: number): void {
    const backend = this.#backend;
    const { codes, scale, zero } = this.#now;
    const { bits, grid, scaleDType } = this.#scheme;
    const tiles = this.#tiles;
    backend.run(scaleSlopes, { g: gradient, codes, zero, slope: this.#slope }, tiles);
    this.#steps++;
    this.#ofWeights.direct(gradient, this.#steps);
    this.#ofScales.direct(this.#slope, this.#steps);
    backend.run(
      stepLatents,
      { d: gradient, scale, zero, u: this.#latents },
      { bits, grid: GRID[grid], ...tiles, rate },
    );
    backend.run(
      stepScales,
      { d: this.#slope, wide: this.#wide, scale },
      { scale_dtype: SCALE_DTYPE[scaleDType], rate: rate * SCALE_SHARE },
    );
    this.#round(this.#latents, codes);
  }

  keep(): void {
    this.#round(this.#latents, this.#best.codes);
    copyInto(this.#best.scale, this.#now.scale, this.#backend);
  }

  restore(): void {
    using scratch = this.#backend.scope();
    const { codes, scale, zero } = this.#now;
    const levels = scratch.alloc("f32", codes.shape);
    const best = { codes: this.#best.codes, scale: this.#ones, zero };
    this.#backend.run(dequantizeInt, { ...best, w: levels }, this.#tiles);
    this.#round(levels, codes);
    copyInto(scale, this.#best.scale, this.#backend);
  }

  get #tiles() {
    return tileScalars(this.#scheme.strategy, this.#now.codes.shape);
  }

  /** codes = the nearest to w, in units of the scale. */
  #round(w: Tensor, codes: Tensor): void {
    const { bits, grid } = this.#scheme;
    const { zero } = this.#now;
    const scalars = { bits, grid: GRID[grid], ...this.#tiles };
    this.#backend.run(quantizeInt, { w, scale: this.#ones, zero, codes }, scalars);
  }
}

/** How fast what was known of gradients fades, per step: of their mean, and of their square's. */
interface Decays {
  readonly mean: number;
  readonly square: number;
}

/** What Adam remembers of gradients of one shape. */
class Direction {
  readonly #backend: Backend;
  readonly #decays: Decays;
  readonly #m: Tensor;
  readonly #v: Tensor;

  constructor(
    { shape }: Tensor,
    { decays, scope }: { readonly decays: Decays; readonly scope: Scope },
  ) {
    this.#backend = scope.backend;
    this.#decays = decays;
    this.#m = filled(shape, 0, scope);
    this.#v = filled(shape, 0, scope);
  }

  /** Turn a gradient into the direction of step 1, 2, … */
  direct(g: Tensor, step: number): void {
    const { mean, square } = this.#decays;
    this.#backend.run(adam, { g, m: this.#m, v: this.#v }, {
      decay_m: mean,
      decay_v: square,
      gain_m: 1 / (1 - mean ** step),
      gain_v: 1 / (1 - square ** step),
    });
  }
}

function copyOf(from: Tensor, scope: Scope): Tensor {
  const to = scope.alloc("f32", from.shape);
  copyInto(to, from, scope.backend);
  return to;
}

function copyInto(to: Tensor, from: Tensor, backend: Backend): void {
  const [rows = 0, columns = 0] = from.shape;
  copyRectangle(backend, { from: { tensor: from }, to: { tensor: to } }, { rows, columns });
}

function filled(shape: Shape, value: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  const values = new Float32Array(elementCount(shape)).fill(value);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}
