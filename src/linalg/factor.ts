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
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Gram } from "./panels.ts";
import { copyRectangle } from "../ops/copy.ts";
import { diagonal } from "../ops/diagonal.ts";
import { FACTOR_BLOCK, factorBlock } from "../ops/factor_block.ts";
import { multiply } from "../ops/gemm.ts";
import { permuteGram } from "../ops/permute_gram.ts";
import { allocPanels, diagonalBlocks, type Panel, type Panels } from "./panels.ts";

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
  /** f32[C]: what each channel of the input is multiplied by first. */
  readonly factor: Tensor;
  /** λ, added to the diagonal of the scaled matrix. */
  readonly damping: number;
}

/**
 * Bytes of device memory that a factor takes while it is made: V, a block of columns before and
 * after, the block's inverse.
 */
export function factorBytes(channels: number): number {
  return channels * channels * 4 + 3 * channels * FACTOR_BLOCK * 4 + FACTOR_BLOCK ** 2 * 4 +
    channels * 8;
}

/** Queue the factoring of a Gram matrix. Whether it went well is told by {@linkcode isSound}. */
export function makeFactor(
  gram: Gram,
  { scope, order: columns, factor, damping }: FactorOptions,
): Factor {
  const { backend } = scope;
  const { size } = gram;
  const order = scope.alloc("u32", [size]);
  const places = scope.alloc("u32", [size]);
  backend.write(order, bytesOf(columns));
  backend.write(places, bytesOf(inverseOrder(columns)));
  const v = allocPanels(size, scope);
  for (const to of v.panels) {
    for (const from of gram.panels) {
      const scalars = { from: from.first, to: to.first, damp: damping };
      backend.run(permuteGram, { h: from.tensor, order, factor, m: to.tensor }, scalars);
    }
  }
  const status = scope.alloc("f32", [1]);
  backend.write(status, bytesOf(Float32Array.of(3.4e38)));
  using scratch = backend.scope();
  const work: Work = {
    backend,
    v,
    status,
    least: damping * LEAST_PIVOT,
    before: scratch.alloc("f32", [size, FACTOR_BLOCK]),
    after: scratch.alloc("f32", [size, FACTOR_BLOCK]),
    zeros: scratch.alloc("f32", [size, FACTOR_BLOCK]),
    inverse: scratch.alloc("f32", [FACTOR_BLOCK, FACTOR_BLOCK]),
    block: diagonalBlocks(v, FACTOR_BLOCK, scratch),
  };
  backend.write(work.zeros, new Uint8Array(size * FACTOR_BLOCK * 4));
  const blocks = Math.ceil(size / FACTOR_BLOCK);
  for (let b = blocks - 1; b >= 0; b--) factorColumns(b * FACTOR_BLOCK, work);
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
  const factor = makeFactor(gram, { scope: trial, ...options });
  if (!await isSound(factor, scope.backend)) return undefined;
  const { v, order, places, status } = factor;
  for (const tensor of [...v.panels.map(({ tensor }) => tensor), order, places, status]) {
    scope.adopt(trial.release(tensor));
  }
  return factor;
}

/** No pivot is below λ but for rounding; one that lies far below it is all rounding. */
const LEAST_PIVOT = 0.1;

interface Work {
  readonly backend: Backend;
  readonly v: Panels;
  readonly status: Tensor;
  readonly least: number;
  /** f32[C, 64]: a block of columns as it was found. */
  readonly before: Tensor;
  /** f32[C, 64]: the same, factored. */
  readonly after: Tensor;
  readonly zeros: Tensor;
  /** f32[64, 64]: the inverse of the factor of the diagonal block. */
  readonly inverse: Tensor;
  readonly block: ReturnType<typeof diagonalBlocks>;
}

/** Queue the work of one block of columns. */
function factorColumns(first: number, work: Work): void {
  const { backend, v, before, after, inverse, status, least, block } = work;
  const count = Math.min(FACTOR_BLOCK, v.size - first);
  const panel = v.panels.findLast((panel) => panel.first <= first)!;
  for (const part of v.panels) takeColumns(part, { first, count, to: before, backend });
  const { tensor: m, panel: top } = block(panel, first, count);
  backend.run(factorBlock, { m, s: before, t: inverse, status }, { first, panel: top, least });
  multiply(backend, { a: { tensor: before }, b: { tensor: inverse }, c: { tensor: after } }, {
    m: v.size,
    n: count,
    k: count,
  });
  for (const part of v.panels) {
    shareOut(part, { first, count, work });
    putColumns(part, { first, count, work });
  }
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
  { first, count, work: { backend, after, zeros } }: { first: number; count: number; work: Work },
): void {
  const above = Math.max(0, Math.min(rows, first - top));
  for (const [from, begin, end] of [[zeros, 0, above], [after, above, rows]] as const) {
    if (end <= begin) continue;
    copyRectangle(backend, {
      from: { tensor: from, row: top + begin },
      to: { tensor, row: begin, column: first },
    }, { rows: end - begin, columns: count });
  }
}

/** Whether every pivot was sound. */
export async function isSound(factor: Factor, backend: Backend): Promise<boolean> {
  const [bytes] = await backend.read(factor.status);
  return new Float32Array(bytes!.buffer)[0]! > 0;
}

/** f32[C] in `scope`: 1/U_ii² by column, which is how much an error in it counts in GPTQ's loss. */
export function importanceOf({ v, order }: Factor, scope: Scope): Tensor {
  const y = scope.alloc("f32", [v.size]);
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
