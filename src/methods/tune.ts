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
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { TrainingManner, TrainingRates, TrainingSteps, TuningMethod } from "../method.ts";
import { upload } from "../linalg/channels.ts";
import { adam } from "../ops/adam.ts";
import { add } from "../ops/add.ts";
import { copyRectangle } from "../ops/copy.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { quantizeInt } from "../ops/quantize_int.ts";
import { scaleRows } from "../ops/scale_rows.ts";
import { scaleSlopes } from "../ops/scale_slopes.ts";
import { startLatents } from "../ops/start_latents.ts";
import { stepLatents } from "../ops/step_latents.ts";
import { stepScales } from "../ops/step_scales.ts";
import { zeroSlopes } from "../ops/zero_slopes.ts";
import type { OptionValues } from "../option.ts";
import type { IntScheme, Quantized } from "../scheme.ts";
import { GRID, SCALE_DTYPE, scaleCount, tileScalars } from "../schemes/tiles.ts";
import { elementCount, type Shape } from "../tensor.ts";

/**
 * Unless said. Scales settle soon: on the sample model in 3 bits, after GPTQ, twice as many steps
 * gain 0.6 % of the KL divergence.
 */
const DEFAULTS = {
  codes: { iterations: 200, batch: 8, scales: 0.001 },
  scales: { iterations: 80, batch: 4, scales: 0.005 },
};

/** Of Adam; without decay it goes by the sign of the gradient alone. */
const DECAYS = { adam: { mean: 0.9, square: 0.99 }, sign: { mean: 0, square: 0 } };

type Optimizer = keyof typeof DECAYS;

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
        return new Steps(quantized, {
          latents,
          origin: origin && { tensor: origin, pull },
          manner,
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

/** Of an int weight. */
type IntTensors = Readonly<Record<"codes" | "scale" | "zero", Tensor>>;

/** What training codes takes. */
interface CodeSteps {
  /** f32[R, C] */
  readonly latents: Tensor;
  readonly direction: Direction;
  /** f32[A, B]: the scales of latents. */
  readonly ones: Tensor;
  /** i8[R, C] */
  readonly best: Tensor;
}

/** What training zero points takes, f32[A, B] all. */
interface ZeroSteps {
  /** Before they are rounded, in codes. */
  readonly wide: Tensor;
  readonly slope: Tensor;
  readonly direction: Direction;
  readonly best: Tensor;
}

/** What weights were before they were rounded, f32[R, C], and how much it counts. */
interface Origin {
  readonly tensor: Tensor;
  readonly pull: number;
}

class Steps implements TrainingSteps {
  readonly #backend: Backend;
  readonly #scheme: IntScheme;
  readonly #now: IntTensors;
  /** f32[A, B]: scales before they are rounded. */
  readonly #wide: Tensor;
  /** f32[A, B]: the gradient by scales. */
  readonly #slope: Tensor;
  readonly #ofScales: Direction;
  readonly #bestScale: Tensor;
  readonly #codes: CodeSteps | undefined;
  readonly #zeros: ZeroSteps | undefined;
  readonly #origin: Origin | undefined;
  #steps = 0;

  constructor(
    { scheme, tensors }: Quantized,
    { latents, origin, manner, scope }: {
      /** f32[R, C]: of which codes are the nearest, in units of the scale, zero point apart. */
      readonly latents: Tensor | undefined;
      readonly origin: Origin | undefined;
      readonly manner: TrainingManner;
      readonly scope: Scope;
    },
  ) {
    const { options } = manner;
    this.#backend = scope.backend;
    this.#scheme = scheme as IntScheme;
    this.#now = tensors as IntTensors;
    const { codes, scale } = this.#now;
    const directionOf = (tensor: Tensor, usual: Optimizer) => {
      const decays = DECAYS[(options.optimizer ?? usual) as Optimizer];
      return new Direction(tensor, { decays, scope });
    };
    this.#wide = copyOf(scale, scope);
    this.#slope = scope.alloc("f32", scale.shape);
    this.#ofScales = directionOf(scale, "adam");
    this.#bestScale = copyOf(scale, scope);
    this.#codes = latents && {
      latents,
      direction: directionOf(codes, "sign"),
      ones: filled(scale.shape, 1, scope),
      best: scope.alloc("i8", codes.shape),
    };
    this.#zeros = trainsZeros(manner, this.#scheme)
      ? {
        wide: zerosOf(this.#now, scope),
        slope: scope.alloc("f32", scale.shape),
        direction: directionOf(scale, "adam"),
        best: scope.alloc("f32", scale.shape),
      }
      : undefined;
    this.#origin = origin;
    this.keep();
  }

  step(gradient: Tensor, rates: TrainingRates, tokens: number): void {
    const backend = this.#backend;
    const { codes, scale, zero } = this.#now;
    const { bits, grid, scaleDType } = this.#scheme;
    const tiles = this.#tiles;
    this.#steps++;
    if (this.#origin) this.#pull(gradient, this.#origin, tokens);
    backend.run(scaleSlopes, { g: gradient, codes, zero, slope: this.#slope }, tiles);
    if (this.#codes) {
      const { latents, direction } = this.#codes;
      if (this.#zeros) this.#stepZeros(gradient, latents, this.#zeros, rates);
      direction.direct(gradient, this.#steps);
      backend.run(stepLatents, { d: gradient, scale, zero, u: latents }, {
        bits,
        grid: GRID[grid],
        ...tiles,
        rate: rates.codes,
      });
      this.#round(latents, codes, this.#codes);
    }
    this.#ofScales.direct(this.#slope, this.#steps);
    backend.run(stepScales, { d: this.#slope, wide: this.#wide, scale }, {
      scale_dtype: SCALE_DTYPE[scaleDType],
      rate: rates.scales,
    });
  }

  keep(): void {
    copyInto(this.#bestScale, this.#now.scale, this.#backend);
    if (this.#zeros) copyInto(this.#zeros.best, this.#zeros.wide, this.#backend);
    if (this.#codes) this.#round(this.#codes.latents, this.#codes.best, this.#codes);
  }

  restore(): void {
    const { codes, scale, zero } = this.#now;
    copyInto(scale, this.#bestScale, this.#backend);
    if (!this.#codes) return;
    if (this.#zeros) this.#roundZeros(this.#zeros.best);
    using scratch = this.#backend.scope();
    const levels = scratch.alloc("f32", codes.shape);
    const best = { codes: this.#codes.best, scale: this.#codes.ones, zero };
    this.#backend.run(dequantizeInt, { ...best, w: levels }, this.#tiles);
    this.#round(levels, codes, this.#codes);
  }

  /** Add the gradient of ½·pull·tokens·‖W − Ŵ‖². */
  #pull(gradient: Tensor, { tensor, pull }: Origin, tokens: number): void {
    const backend = this.#backend;
    using scratch = backend.scope();
    const apart = scratch.alloc("f32", gradient.shape);
    backend.run(dequantizeInt, { ...this.#now, w: apart }, this.#tiles);
    backend.run(add, { y: tensor, x: apart }, { times: 1, other: -1 });
    backend.run(add, { y: apart, x: gradient }, { times: 1, other: pull * tokens });
  }

  #stepZeros(
    g: Tensor,
    u: Tensor,
    { wide, slope, direction }: ZeroSteps,
    { codes: rate }: TrainingRates,
  ): void {
    const backend = this.#backend;
    const { bits, grid } = this.#scheme;
    const { scale, zero } = this.#now;
    backend.run(zeroSlopes, { g, u, scale, zero, slope }, {
      bits,
      grid: GRID[grid],
      ...this.#tiles,
    });
    direction.direct(slope, this.#steps);
    // They begin in the middle between two others, and latents on their way to one: twice as far.
    backend.run(add, { y: slope, x: wide }, { times: 1, other: -2 * rate });
    this.#roundZeros(wide);
  }

  /** zero = the nearest code to wide. */
  #roundZeros(wide: Tensor): void {
    const backend = this.#backend;
    const { bits, grid } = this.#scheme;
    const { zero } = this.#now;
    using scratch = backend.scope();
    const { given, tile } = asNumbers(wide.shape, scratch);
    const scalars = { bits, grid: GRID[grid], ...tile };
    backend.run(quantizeInt, { w: wide, codes: zero, ...given }, scalars);
  }

  get #tiles() {
    return tileScalars(this.#scheme.strategy, this.#now.codes.shape);
  }

  /** codes = the nearest to w, in units of the scale. */
  #round(w: Tensor, codes: Tensor, { ones: scale }: CodeSteps): void {
    const { bits, grid } = this.#scheme;
    const { zero } = this.#now;
    const scalars = { bits, grid: GRID[grid], ...this.#tiles };
    this.#backend.run(quantizeInt, { w, scale, zero, codes }, scalars);
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

/** Zero points as numbers, f32[A, B] in `scope`. */
function zerosOf({ zero }: IntTensors, scope: Scope): Tensor {
  const wide = scope.alloc("f32", zero.shape);
  using scratch = scope.backend.scope();
  const { given, tile } = asNumbers(zero.shape, scratch);
  scope.backend.run(dequantizeInt, { codes: zero, w: wide, ...given }, tile);
  return wide;
}

/** What makes codes of a shape stand for themselves: one tile, of scale 1 and zero point 0. */
function asNumbers([rows = 0, columns = 0]: Shape, scope: Scope) {
  const zero = scope.alloc("i8", [1, 1]);
  scope.backend.write(zero, new Uint8Array(1));
  return {
    given: { scale: filled([1, 1], 1, scope), zero },
    tile: { tile_rows: rows, tile_columns: columns },
  };
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
