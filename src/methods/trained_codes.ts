/**
 * Codes, scales and zero points of one weight while they are trained: how a gradient by the weight
 * becomes a step of each, and which of those on the way are kept (tune.ts tells what for).
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { TrainingRates, TrainingSteps } from "../method.ts";
import { adam } from "../ops/adam.ts";
import { add } from "../ops/add.ts";
import { copyRectangle } from "../ops/copy.ts";
import { dequantizeInt } from "../ops/dequantize_int.ts";
import { quantizeInt } from "../ops/quantize_int.ts";
import { scaleSlopes } from "../ops/scale_slopes.ts";
import { stepLatents } from "../ops/step_latents.ts";
import { stepScales } from "../ops/step_scales.ts";
import { zeroSlopes } from "../ops/zero_slopes.ts";
import type { IntScheme, Quantized } from "../scheme.ts";
import { GRID, SCALE_DTYPE, tileScalars } from "../schemes/tiles.ts";
import { elementCount, type Shape } from "../tensor.ts";

/** Of Adam; without decay it goes by the sign of the gradient alone. */
const DECAYS = { adam: { mean: 0.9, square: 0.99 }, sign: { mean: 0, square: 0 } };

/** How a gradient becomes a direction. */
export type Optimizer = keyof typeof DECAYS;

/** Of an int weight. */
export type IntTensors = Readonly<Record<"codes" | "scale" | "zero", Tensor>>;

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
export interface Origin {
  readonly tensor: Tensor;
  readonly pull: number;
}

/** See the head of this file. */
export class TrainedCodes implements TrainingSteps {
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
    { latents, origin, zeros, optimizer, scope }: {
      /** f32[R, C]: of which codes are the nearest, in units of the scale, zero point apart. */
      readonly latents: Tensor | undefined;
      readonly origin: Origin | undefined;
      /** Whether zero points are trained. */
      readonly zeros: boolean;
      /** Of codes, of scales and of zero points; each has its own unless said. */
      readonly optimizer: Optimizer | undefined;
      readonly scope: Scope;
    },
  ) {
    this.#backend = scope.backend;
    this.#scheme = scheme as IntScheme;
    this.#now = tensors as IntTensors;
    const { codes, scale } = this.#now;
    const directionOf = (tensor: Tensor, usual: Optimizer) => {
      const decays = DECAYS[optimizer ?? usual];
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
    this.#zeros = zeros
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

export function copyOf(from: Tensor, scope: Scope): Tensor {
  const to = scope.alloc("f32", from.shape);
  copyInto(to, from, scope.backend);
  return to;
}

function copyInto(to: Tensor, from: Tensor, backend: Backend): void {
  const [rows = 0, columns = 0] = from.shape;
  copyRectangle(backend, { from: { tensor: from }, to: { tensor: to } }, { rows, columns });
}

export function filled(shape: Shape, value: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  const values = new Float32Array(elementCount(shape)).fill(value);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}
