/** Scales per tile: what the int and fp8 schemes share. Refuses groups that do not divide a row. */
import type { Allocator, Tensor } from "../backend.ts";
import { scaleParams } from "../ops/scale_params.ts";
import { tileRange } from "../ops/tile_range.ts";
import { type ScaleDType, scaleShape, type Strategy, tileOf } from "../scheme.ts";
import type { Scope } from "../backend.ts";
import { elementCount, matrixShape, type Shape } from "../tensor.ts";

/** `scale_dtype` as `scale_params` and `search_params` number it. */
export const SCALE_DTYPE: Readonly<Record<ScaleDType, number>> = { f32: 0, bf16: 1, f16: 2 };

/** The number `scale_params` has for a grid. */
export const GRID = { full: 0, restricted: 1, affine: 2, fp8: 3 } as const;

/** As a person would say it: `groups of 64`. */
export function strategyLabel(strategy: Strategy): string {
  switch (strategy.kind) {
    case "tensor":
      return "per tensor";
    case "channel":
      return "per channel";
    case "group":
      return `groups of ${strategy.size}`;
    case "block":
      return blockLabel(strategy.rows, strategy.columns);
  }
}

function blockLabel(rows: number, columns: number): string {
  if (rows === 0 && columns === 1) return "per column";
  const side = (count: number, what: string) => count === 0 ? `all ${what}` : String(count);
  return `blocks of ${side(rows, "rows")}×${side(columns, "columns")}`;
}

/**
 * Group sizes in use that divide a row of `columns`, largest first; the divisors themselves when
 * none of those does.
 */
function groupSizesThatDivide(columns: number): number[] {
  const usual = [1024, 512, 256, 192, 128, 96, 64, 48, 32, 16, 8];
  const fitting = usual.filter((size) => size <= columns && columns % size === 0);
  if (fitting.length > 0) return fitting;
  return Array.from({ length: Math.min(columns, 256) }, (_, i) => i + 1)
    .filter((size) => columns % size === 0).reverse().slice(0, 4);
}

/** Why a weight of `shape` cannot have its scales laid out by `strategy`, or `true`. */
export function checkStrategy(strategy: Strategy, shape: Shape): true | string {
  const [rows, columns] = matrixShape(shape);
  if (shape.length < 2) return `a weight of shape [${shape}] has no rows and columns`;
  if (rows === 0 || columns === 0) return `a weight of shape [${shape}] has no elements`;
  const isSize = (size: number, least: number) => Number.isSafeInteger(size) && size >= least;
  const sound = strategy.kind === "group"
    ? isSize(strategy.size, 1)
    : strategy.kind !== "block" || isSize(strategy.rows, 0) && isSize(strategy.columns, 0);
  if (!sound) {
    return `${
      strategyLabel(strategy)
    }: sizes must be whole numbers of at least 1, or 0 for all rows or columns of a block`;
  }
  if (strategy.kind === "group" && columns % strategy.size !== 0) {
    return `group size ${strategy.size} does not divide ${columns} columns; ${
      groupSizesThatDivide(columns).join(", ")
    } do`;
  }
  return true;
}

/** Rows that share a scale, at most all of them. */
export function strategyRowStep(strategy: Strategy, shape: Shape): number {
  return Math.min(matrixShape(shape)[0], tileOf(strategy, shape)[0]);
}

/** How many scales a weight has. */
export function scaleCount(strategy: Strategy, shape: Shape): number {
  const [a, b] = scaleShape(strategy, shape);
  return a * b;
}

/** The tile as the ops take it: `tile_rows` and `tile_columns`. */
export function tileScalars(
  strategy: Strategy,
  shape: Shape,
): { tile_rows: number; tile_columns: number } {
  const [tile_rows, tile_columns] = tileOf(strategy, shape);
  return { tile_rows, tile_columns };
}

/** Empty `scale` f32[A, B] and `zero` i8[A, B] for a weight. */
export function allocParams(
  strategy: Strategy,
  shape: Shape,
  allocator: Allocator,
): { scale: Tensor; zero: Tensor } {
  const tiles = scaleShape(strategy, shape);
  return { scale: allocator.alloc("f32", tiles), zero: allocator.alloc("i8", tiles) };
}

/**
 * Scale and zero point of each tile from its least and greatest weight. `weight` is f32|bf16|f16[R,
 * C].
 */
export function minMaxParams(
  weight: Tensor,
  { strategy, grid, bits, scaleDType, scope }: {
    readonly strategy: Strategy;
    readonly grid: keyof typeof GRID;
    readonly bits: number;
    readonly scaleDType: ScaleDType;
    readonly scope: Scope;
  },
): { scale: Tensor; zero: Tensor } {
  const { backend } = scope;
  using scratch = backend.scope();
  const tiles = scaleShape(strategy, weight.shape);
  const low = scratch.alloc("f32", tiles);
  const high = scratch.alloc("f32", tiles);
  backend.run(tileRange, { w: weight, low, high }, tileScalars(strategy, weight.shape));
  const params = allocParams(strategy, weight.shape, scope);
  backend.run(scaleParams, { low, high, ...params }, {
    bits,
    grid: GRID[grid],
    scale_dtype: SCALE_DTYPE[scaleDType],
  });
  return params;
}

/** i8[A, B] zero points of 0 for a weight of `shape`, in `scope`. */
export function noZeroPoints(strategy: Strategy, shape: Shape, scope: Scope): Tensor {
  const tiles = scaleShape(strategy, shape);
  const tensor = scope.alloc("i8", tiles);
  scope.backend.write(tensor, new Uint8Array(elementCount(tiles)));
  return tensor;
}

/**
 * Whether every scale belongs to one row, so that rows can be multiplied after codes were chosen.
 */
export function rowsScale(strategy: Strategy): true | string {
  return strategy.kind === "channel" || strategy.kind === "group" ||
    `scales ${strategyLabel(strategy)} belong to several rows`;
}
