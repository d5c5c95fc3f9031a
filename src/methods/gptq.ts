/**
 * GPTQ (Frantar et al., arXiv 2210.17323): columns of a weight are rounded one after the other, and
 * the error of each is made up for by those that are still to come, as the inputs' Gram matrix says
 * they can. Scales are fixed first (static groups), so that any order of columns gives an ordinary
 * file; a search for them counts an error in a column by 1/U_ii², which is what it costs in the
 * loss, Σ e²/2 with e = (w − q)/U_ii. Rows do not depend on each other.
 *
 * Where scales are moved into the weight, it is rounded as it was without them, on a grid whose
 * columns are divided by them: the inputs' Gram matrix serves as it is, and one factor of it for
 * any scales.
 */
import { type Factor, importanceOf, soundFactor } from "../linalg/factor.ts";
import type { Job, Rounded, Rounder, RoundingMethod, RoundingRequest } from "../method.ts";
import { diagonalBlocks, type Gram, SPAN } from "../linalg/panels.ts";
import { gram } from "../observers/gram.ts";
import { multiply } from "../ops/gemm.ts";
import { GPTQ_BLOCK, gptqBlock } from "../ops/gptq_block.ts";
import { permuteColumns } from "../ops/permute_columns.ts";
import { Pace } from "../pace.ts";
import type { Scheme, ValueGrid } from "../scheme.ts";
import { tileOf } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { Scope, Tensor } from "../backend.ts";
import { natural, ones, scaleColumns, stackRows, upload, uploadParts } from "../linalg/channels.ts";
import { checkPolish, POLISH, polish } from "./polish.ts";
import { rtn } from "./rtn.ts";
import { isSigned, SCALE, searchOf, UNSIGNED } from "./scale_option.ts";

const ORDERS = ["act-order", "group-aware", "natural"] as const;

/**
 * λ as a share of the diagonal. The paper's 0.01 fits the calibration's text more closely than any
 * other: on SmolLM2-135M 0.1 costs nothing there and a quarter less on program code.
 */
const DAMPING = 0.1;

/** Factors by which λ grows until the Gram matrix can be factored. */
const LADDER = [1, 2, 5, 10, 20, 50, 100];

/** See the head of this file. */
export const gptq: RoundingMethod = {
  kind: "rounding",
  compensates: true,
  name: "gptq",
  options: [
    SCALE,
    UNSIGNED,
    {
      name: "damping",
      type: "number",
      placeholder: "x",
      min: 1e-8,
      max: 10,
      default: DAMPING,
      help:
        "gptq: λ, as a share of the mean of the Hessian's diagonal; more holds better on texts that differ from the calibration's",
    },
    {
      name: "column-order",
      type: "string",
      choices: ORDERS,
      default: ORDERS[0],
      help:
        "gptq: columns by activation, all of them (act-order, with static groups) or within and among groups, or as they are",
    },
    ...POLISH,
  ],
  needs: () => [gram],
  supports(scheme, options) {
    const { choice } = schemeKind(scheme);
    if (!choice) return `gptq chooses codes on grids of int, fp8, nf4 and fp4, not ${scheme.kind}`;
    const { search } = searchOf(options, "hessian");
    if (options.scale !== undefined && search !== "minmax" && scheme.kind !== "int") {
      return `scales of ${scheme.kind} are not searched for; only those of int are (scale: ${options.scale})`;
    }
    return checkPolish(scheme, options);
  },
  async open(request) {
    const { statistics, scope, report, names, signal } = request;
    if (!statistics) throw new RangeError("Cannot round by gptq: no statistics were given");
    const sums = statistics.of(gram);
    const squares = sums.diagonal;
    const start = Number(request.options.damping ?? DAMPING);
    const order = orderOf(squares, request);
    const found = await dampedFactor(sums, { scope, order, start, signal });
    if (found) {
      if (found.damping > start) {
        report({
          type: "warning",
          code: "damping",
          message: `The Hessian of ${
            names.join(", ")
          } could be factored only with a damping of ${found.damping}, not ${start}.`,
        });
      }
      const used = usedChannels(squares, groupSize(request.scheme, sums.size));
      return new GptqRounder(request, { ...found, used });
    }
    const fallback = `the Hessian cannot be factored, even with a damping of ${
      start * LADDER.at(-1)!
    }`;
    report({
      type: "warning",
      code: "fallback",
      message: `${names.join(", ")} are rounded to nearest: ${fallback}.`,
    });
    const plain = await rtn.open({ ...request, options: {} });
    return { round: (job) => plain.round(job), remarks: { fallback } };
  },
};

/**
 * The factor of the inputs' Gram matrix with the least damping by which it is sound, from `start`
 * on; undefined where none is.
 *
 * @param options.start λ as a share of the diagonal.
 */
export async function dampedFactor(
  sums: Gram,
  { scope, order, start = DAMPING, signal }: {
    readonly scope: Scope;
    readonly order: Uint32Array;
    readonly start?: number;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<
  { readonly factor: Factor; readonly damping: number; readonly lambda: number } | undefined
> {
  for (const step of LADDER) {
    const damping = start * step;
    const lambda = damping * base(sums.diagonal);
    const factor = await soundFactor(sums, { scope, order, damping: lambda, signal });
    if (factor) return { factor, damping, lambda };
  }
  return undefined;
}

/**
 * What λ is a share of: the mean of the diagonal, or where a few massive activations make most of
 * it, a multiple of the median.
 */
function base(squares: Float32Array): number {
  const live = squares.filter((square) => square > 0).sort();
  if (live.length === 0) return 1;
  const mean = live.reduce((sum, square) => sum + square, 0) / squares.length;
  return Math.min(mean, MASSIVE * live[live.length >> 1]!);
}

/** A mean of more than this many medians is made by massive activations. */
const MASSIVE = 10;

/**
 * 0 for channels that were always 0, whose weights become 0, so that they take no part in what is
 * found for the others of their group; 1 for the rest, and for groups in which no channel was ever
 * used: there is nothing to tell their weights apart, and they are rounded to nearest. Undefined
 * where all are 1.
 */
function usedChannels(squares: Float32Array, width: number): Float32Array | undefined {
  const used = squares.map((square, c) => {
    const from = c - c % width;
    const group = squares.subarray(from, from + width);
    return square > 0 || group.every((other) => other === 0) ? 1 : 0;
  });
  return used.includes(0) ? used : undefined;
}

/** The order in which columns are rounded. */
function orderOf(
  squares: Float32Array,
  { options, scheme }: Pick<RoundingRequest, "options" | "scheme">,
): Uint32Array {
  const columns = natural(squares.length);
  const asked = options["column-order"] ?? ORDERS[0];
  if (asked === "natural") return columns;
  const bySquare = (a: number, b: number) => squares[b]! - squares[a]! || a - b;
  if (asked === "act-order") return columns.sort(bySquare);
  // Group-aware (arXiv 2505.14638): groups by their largest channel, and channels within each.
  const width = groupSize(scheme, squares.length);
  const most = (column: number) => {
    const from = column - column % width;
    return squares.subarray(from, from + width).reduce((a, b) => Math.max(a, b), 0);
  };
  return columns.sort((a, b) => {
    const [one, other] = [Math.floor(a / width), Math.floor(b / width)];
    return one === other ? bySquare(a, b) : most(b) - most(a) || one - other;
  });
}

function groupSize(scheme: Scheme, columns: number): number {
  if ("strategy" in scheme) return tileOf(scheme.strategy, [1, columns])[1];
  return "block" in scheme ? scheme.block : columns;
}

class GptqRounder implements Rounder {
  readonly remarks;
  readonly #request: RoundingRequest;
  readonly #factor: Factor;
  readonly #lambda: number;
  /** f32[1, C] */
  readonly #ones: Tensor;
  /** f32[1, C], see `usedChannels`; absent when all are. */
  readonly #used: Tensor | undefined;
  readonly #natural: Tensor;
  readonly #importance: Tensor;

  constructor(
    request: RoundingRequest,
    { factor, damping, lambda, used }: {
      factor: Factor;
      damping: number;
      lambda: number;
      used: Float32Array | undefined;
    },
  ) {
    const { scope, statistics } = request;
    const { size } = statistics!.of(gram);
    this.#request = request;
    this.#factor = factor;
    this.#lambda = lambda;
    this.#importance = importanceOf(factor, scope);
    this.#natural = upload(natural(size), scope);
    this.#ones = uploadParts([ones(size)], scope);
    this.#used = used && uploadParts([used], scope);
    this.remarks = { damping, importance: this.#importance };
  }

  async round({ weight, scales, scope }: Job): Promise<Rounded> {
    const { backend } = scope;
    const { scheme, options, signal } = this.#request;
    const [rows = 0] = weight.shape;
    using scratch = backend.scope();
    const start = this.#used
      ? this.#permuted(weight, this.#natural, { factor: this.#used, scope: scratch })
      : weight;
    const choice = schemeKind(scheme).choice!;
    const factor = scales ? uploadParts(scales, scratch) : this.#ones;
    const scaled = (w: Tensor, scope: Scope) => scales ? scaleColumns(w, factor, scope) : w;
    const params = this.#params(start, { scales, scaled, scope });
    const grid = choice.grid(scheme, params, { shape: weight.shape, scope: scratch });
    const loss = zeros(rows, scope);
    const pace = new Pace(backend, signal);
    const values = await this.#chosen(start, { grid, factor, loss, pace, scope: scratch });
    await polish({ values, target: start, grid, loss }, {
      gram: this.#request.statistics!.of(gram),
      factor,
      damping: this.#lambda,
      scheme,
      options,
      pace,
    }, scratch);
    const quantized = choice.encode(scheme, scaled(values, scratch), { params, scope });
    return { quantized, loss };
  }

  /** The scales of a weight, in `scope`; what finding them takes is free again. */
  #params(
    weight: Tensor,
    { scales, scaled, scope }: Pick<Job, "scales" | "scope"> & {
      readonly scaled: (w: Tensor, scope: Scope) => Tensor;
    },
  ): Readonly<Record<string, Tensor>> {
    const { scheme, options } = this.#request;
    using scratch = scope.backend.scope();
    const usual = scheme.kind === "int" ? "hessian" : "minmax";
    const { search, weighted } = searchOf(options, usual);
    return schemeKind(scheme).choice!.params(scheme, scaled(weight, scratch), {
      scope,
      search,
      signed: isSigned(options),
      ...(weighted ? { importance: this.#importanceBy(scales, scratch) } : {}),
    });
  }

  /** f32[G, C] in `scope`: what errors cost in columns that were multiplied by scales. */
  #importanceBy(scales: Job["scales"], scope: Scope): Tensor {
    if (!scales) return this.#importance;
    const alike = stackRows(scales.map(() => this.#importance), scope);
    return scaleColumns(alike, scales.map((part) => part.map((scale) => 1 / scale ** 2)), scope);
  }

  /** GPTQ itself: the values that a weight is rounded to, scales apart, f32[R, C] in `scope`. */
  async #chosen(
    target: Tensor,
    { grid: { scale, zero, scalars }, factor, loss, pace, scope }: {
      grid: ValueGrid;
      factor: Tensor;
      loss: Tensor;
      pace: Pace;
      scope: Scope;
    },
  ): Promise<Tensor> {
    const { backend } = scope;
    const [rows = 0] = target.shape;
    using scratch = backend.scope();
    const { order, places, v: { size, panels } } = this.#factor;
    const w = this.#permuted(target, order, { scope: scratch });
    const e = scratch.alloc("f32", target.shape);
    const blockOf = diagonalBlocks(this.#factor.v, GPTQ_BLOCK, scratch);
    for (const part of panels) {
      const { first: top, rows: height, tensor } = part;
      /** Queue what columns `from` … `first` left to the `count` columns after them. */
      const spread = (from: number, first: number, count: number) => {
        if (first === from) return;
        multiply(backend, {
          a: { tensor: e, column: from },
          b: { tensor, row: first - top, column: from },
          c: { tensor: w, column: first },
        }, { m: rows, n: count, k: first - from, alpha: -1, add: true });
      };
      for (let first = top, begin = top; first < top + height; first += GPTQ_BLOCK) {
        if (first === begin + SPAN) begin = first;
        if (first === begin) spread(0, begin, Math.min(SPAN, top + height - begin));
        const count = Math.min(GPTQ_BLOCK, size - first);
        spread(begin, first, count);
        const { tensor: v, panel } = blockOf(part, first, count);
        backend.run(gptqBlock, { v, scale, zero, order, factor, w, e, loss }, {
          first,
          count,
          panel,
          ...scalars,
        });
        await pace.keep();
      }
    }
    return this.#permuted(w, places, { scope });
  }

  #permuted(
    w: Tensor,
    order: Tensor,
    { factor = this.#ones, scope }: { factor?: Tensor; scope: Scope },
  ): Tensor {
    const y = scope.alloc("f32", w.shape);
    scope.backend.run(permuteColumns, { w, order, factor, y });
    return y;
  }
}

function zeros(count: number, scope: Scope): Tensor {
  return upload(new Float32Array(count), scope);
}
