/**
 * The factor of a damped Gram matrix that GPTQ and error propagation solve with: U upper triangular
 * with (H + λI)⁻¹ = Uᵀ·U, held as V = Uᵀ. Instead of inverting H and factoring the inverse (Frantar
 * et al., arXiv 2210.17323), H is factored from its last column back, H = R·Rᵀ with R upper
 * triangular, and U = R⁻¹: half the work, and one source of rounding less.
 *
 * Both go hand in hand in one matrix, block of columns after block of columns from the last. When
 * block b has been factored, rows above it hold R and rows below it V; every column before it then
 * takes its share, M[:, <b] −= M[:, b]·M[<b, b]ᵀ, which is the update of the factorization above
 * and that of the inverse below. What is above is not needed again, so zeros are left there.
 *
 * A matrix that no cache holds is gone through as seldom as can be: its blocks are wide, and each
 * diagonal block is factored in the same way by itself.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Gram } from "./panels.ts";
import { copyRectangle } from "../ops/copy.ts";
import { diagonal } from "../ops/diagonal.ts";
import { FACTOR_BLOCK, factorBlock } from "../ops/factor_block.ts";
import { multiply } from "../ops/gemm.ts";
import { permuteGram } from "../ops/permute_gram.ts";
import { Pace } from "../pace.ts";
import { allocMatrix, allocPanels, diagonalBlocks, type Panel, type Panels } from "./panels.ts";

/** V = Uᵀ, lower triangular, of a Gram matrix whose columns were put in an order. */
export interface Factor {
  readonly v: Panels;
  /** u32[C]: which column stands at each place. */
  readonly order: Tensor;
  /** u32[C]: at which place each column stands. */
  readonly places: Tensor;
  /** f32[1]: the least pivot, −1 if one was not sound. */
  readonly status: Tensor;
}

/** How a Gram matrix is factored. */
export interface FactorOptions {
  readonly scope: Scope;
  /** Columns by place. */
  readonly order: Uint32Array;
  /** λ, added to the diagonal. */
  readonly damping: number;
  /** Columns of a block, a multiple of 64; as many as suit the size unless given. */
  readonly width?: number;
  /** Ends the factoring when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Bytes that making a factor takes beside V. */
export interface FactorWork {
  /** Wide blocks of columns before and after: where V is. */
  readonly columns: number;
  /** What kernels reach. */
  readonly device: number;
}

/** What making the factor of a matrix takes beside V. */
export function factorWork(size: number): FactorWork {
  const width = blockWidth(size);
  const columns = 2 * size * width * 4;
  const zeros = zeroRows(size) * width * 4;
  if (width === FACTOR_BLOCK) {
    return { columns: 0, device: columns + zeros + FACTOR_BLOCK ** 2 * 4 + size * 8 };
  }
  return { columns, device: zeros + width ** 2 * 4 + factorWork(width).device + size * 8 };
}

/** Queue the factoring of a Gram matrix. Whether it went well is told by {@linkcode isSound}. */
export async function makeFactor(
  gram: Gram,
  { scope, order: columns, damping, width, signal }: FactorOptions,
): Promise<Factor> {
  const { backend } = scope;
  const pace = new Pace(backend, signal);
  const { size } = gram;
  const order = scope.alloc("u32", [size]);
  const places = scope.alloc("u32", [size]);
  backend.write(order, bytesOf(columns));
  backend.write(places, bytesOf(inverseOrder(columns)));
  const v = allocPanels(size, scope);
  for (const to of v.panels) {
    for (const from of gram.panels) {
      const scalars = { from: from.first, to: to.first, damp: damping };
      backend.run(permuteGram, { h: from.tensor, order, m: to.tensor }, scalars);
      await pace.keep();
    }
  }
  const status = scope.alloc("f32", [1]);
  backend.write(status, bytesOf(Float32Array.of(3.4e38)));
  const pivots = { status, least: damping * LEAST_PIVOT };
  await factorInPlace(v, { backend, pivots, width, pace });
  return { v, order, places, status };
}

/**
 * The factor of a Gram matrix if every pivot is sound, else undefined. What an unsound one took is
 * free again, so that a larger λ can be tried in its place.
 */
export async function soundFactor(
  gram: Gram,
  { scope, ...options }: FactorOptions,
): Promise<Factor | undefined> {
  using trial = scope.backend.scope();
  const factor = await makeFactor(gram, { scope: trial, ...options });
  if (!await isSound(factor, scope.backend)) return undefined;
  const { v, order, places, status } = factor;
  for (const tensor of [...v.panels.map(({ tensor }) => tensor), order, places, status]) {
    scope.adopt(trial.release(tensor));
  }
  return factor;
}

/** No pivot is below λ but for rounding; one that lies far below it is all rounding. */
const LEAST_PIVOT = 0.1;

/** Matrices of fewer columns are gone through in blocks that one kernel factors. */
const WIDE_FROM = 8192;
/** How many wide blocks a matrix has, about. */
const WIDE_BLOCKS = 24;

/** Columns of a block. */
function blockWidth(size: number): number {
  return size < WIDE_FROM
    ? FACTOR_BLOCK
    : FACTOR_BLOCK * Math.ceil(size / (FACTOR_BLOCK * WIDE_BLOCKS));
}

/** Rows that are set to zero at once. */
function zeroRows(size: number): number {
  return Math.min(size, WIDE_FROM);
}

/** What is known of pivots. */
interface Pivots {
  /** f32[1]: the least so far, −1 if one was not sound. */
  readonly status: Tensor;
  /** What is less is not sound. */
  readonly least: number;
}

/** What a matrix of which the upper half is there is factored with. */
interface Work {
  readonly backend: Backend;
  readonly pace: Pace;
  readonly v: Panels;
  /** f32[C, W]: a block of columns as it was found. */
  readonly before: Tensor;
  /** f32[C, W]: the same, factored. */
  readonly after: Tensor;
  /** f32[·, W] */
  readonly zeros: Tensor;
}

/** Queues the factoring of `count` columns, from `before` to `after`. */
type Step = (first: number, count: number) => Promise<void> | void;

/** Queue the factoring of a matrix in place; of it the upper half is read. */
async function factorInPlace(
  v: Panels,
  { backend, pace, pivots, width = blockWidth(v.size) }: {
    readonly backend: Backend;
    readonly pace: Pace;
    readonly pivots: Pivots;
    readonly width?: number | undefined;
  },
): Promise<void> {
  using scratch = backend.scope();
  const { size } = v;
  const outside = width > FACTOR_BLOCK && v.panels.some(({ tensor }) => tensor.outside);
  const zeros = scratch.alloc("f32", [zeroRows(size), width]);
  backend.write(zeros, new Uint8Array(zeroRows(size) * width * 4));
  const work: Work = {
    backend,
    pace,
    v,
    before: allocMatrix([size, width], scratch, outside),
    after: allocMatrix([size, width], scratch, outside),
    zeros,
  };
  const step = width > FACTOR_BLOCK ? wideStep(work, pivots) : narrowStep(work, pivots, scratch);
  for (let b = Math.ceil(size / width) - 1; b >= 0; b--) {
    const first = b * width;
    const count = Math.min(width, size - first);
    for (const part of v.panels) {
      takeColumns(part, { first, count, to: work.before, backend });
      await pace.keep();
    }
    await step(first, count);
    for (const part of v.panels) {
      shareOut(part, { first, count, work });
      putColumns(part, { first, count, work });
      await pace.keep();
    }
  }
}

/** Steps of which one kernel factors the diagonal block. */
function narrowStep(
  { backend, v, before, after }: Work,
  { status, least }: Pivots,
  scratch: Scope,
): Step {
  const inverse = scratch.alloc("f32", [FACTOR_BLOCK, FACTOR_BLOCK]);
  const block = diagonalBlocks(v, FACTOR_BLOCK, scratch);
  return (first, count) => {
    const panel = v.panels.findLast((panel) => panel.first <= first)!;
    const { tensor: m, panel: top } = block(panel, first, count);
    backend.run(factorBlock, { m, s: before, t: inverse, status }, { first, panel: top, least });
    multiply(backend, { a: { tensor: before }, b: { tensor: inverse }, c: { tensor: after } }, {
      m: v.size,
      n: count,
      k: count,
    });
  };
}

/** Steps of which the diagonal block is factored as a matrix is. */
function wideStep(
  { backend, pace, v: { size }, before, after }: Work,
  pivots: Pivots,
): Step {
  return async (first, count) => {
    using scratch = backend.scope();
    const square = scratch.alloc("f32", [count, count]);
    const rectangle = { rows: count, columns: count };
    copyRectangle(
      backend,
      { from: { tensor: before, row: first }, to: { tensor: square } },
      rectangle,
    );
    const panels = [{ first: 0, rows: count, tensor: square }];
    await factorInPlace({ size: count, panels }, { backend, pace, pivots });
    copyRectangle(
      backend,
      { from: { tensor: square }, to: { tensor: after, row: first } },
      rectangle,
    );
    for (const [from, to] of [[0, first], [first + count, size]] as const) {
      if (to === from) continue;
      multiply(backend, {
        a: { tensor: before, row: from },
        b: { tensor: square, transposed: true },
        c: { tensor: after, row: from },
      }, { m: to - from, n: count, k: count });
      await pace.keep();
    }
  };
}

function takeColumns(
  { first: top, rows, tensor }: Panel,
  { first, count, to, backend }: { first: number; count: number; to: Tensor; backend: Backend },
): void {
  copyRectangle(backend, {
    from: { tensor, column: first },
    to: { tensor: to, row: top },
  }, { rows, columns: count });
}

/**
 * M[:, <first] −= after·after[<first]ᵀ for the rows of a panel: those above the block in their
 * upper half only.
 */
function shareOut(
  { first: top, rows, tensor }: Panel,
  { first, count, work: { backend, after } }: { first: number; count: number; work: Work },
): void {
  const above = Math.max(0, Math.min(rows, first - top));
  const below = { from: Math.max(0, Math.min(rows, first - top)), to: rows };
  const common = { k: count, alpha: -1, add: true } as const;
  if (above > 0) {
    multiply(backend, {
      a: { tensor: after, row: top },
      b: { tensor: after },
      c: { tensor },
    }, { ...common, m: above, n: first, half: "upper", diagonal: top });
  }
  if (first > 0 && below.to > below.from) {
    multiply(backend, {
      a: { tensor: after, row: top + below.from },
      b: { tensor: after },
      c: { tensor, row: below.from },
    }, { ...common, m: below.to - below.from, n: first });
  }
}

/** Put the factored columns back from the block down, and zeros above it. */
function putColumns(
  { first: top, rows, tensor }: Panel,
  { first, count, work: { backend, v, after, zeros } }: {
    first: number;
    count: number;
    work: Work;
  },
): void {
  const above = Math.max(0, Math.min(rows, first - top));
  const most = zeroRows(v.size);
  for (let row = 0; row < above; row += most) {
    copyRectangle(backend, {
      from: { tensor: zeros },
      to: { tensor, row, column: first },
    }, { rows: Math.min(most, above - row), columns: count });
  }
  if (rows === above) return;
  copyRectangle(backend, {
    from: { tensor: after, row: top + above },
    to: { tensor, row: above, column: first },
  }, { rows: rows - above, columns: count });
}

/** Whether every pivot was sound. */
export async function isSound(factor: Factor, backend: Backend): Promise<boolean> {
  const [bytes] = await backend.read(factor.status);
  return new Float32Array(bytes!.buffer)[0]! > 0;
}

/** f32[1, C] in `scope`: 1/U_ii² by column, which is how much an error in it counts in GPTQ's loss. */
export function importanceOf({ v, order }: Factor, scope: Scope): Tensor {
  const y = scope.alloc("f32", [1, v.size]);
  for (const { first, tensor } of v.panels) {
    scope.backend.run(diagonal, { m: tensor, order, y }, { first, inverse_square: 1 });
  }
  return y;
}

/** At which place each entry of an order stands. */
export function inverseOrder(order: Uint32Array): Uint32Array<ArrayBuffer> {
  const places = new Uint32Array(order.length);
  order.forEach((column, place) => places[column] = place);
  return places;
}

function bytesOf(array: Uint32Array | Float32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
