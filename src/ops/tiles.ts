/**
 * The fast kernels of matrix products on a GPU: which there are, and which of them a call gets.
 *
 * Measured on an H100 (TFLOP/s of products with 4096 columns; torch in float32 reaches 50): a loop
 * over scalars 18–22, tiles of 64 × 64 in vectors with the depth written out 41, tiles of 128 × 128
 * 47, but 23 where there are too few of them for all of its multiprocessors.
 */
import template from "../../shaders/matmul_unrolled.wgsl" with { type: "text" };
import type { Dims, Op, Scalars, Variant } from "../op.ts";
import { unroll } from "./unroll.ts";

/** Rows and columns of the result that one workgroup computes. */
const SIDES = [128, 64] as const;

/** Workgroups below which large tiles leave parts of a large GPU idle. */
const ENOUGH_GROUPS = 400;

/** The side of the tiles that a product of so many elements is computed in. */
export function tileSide(elements: number): typeof SIDES[number] {
  return SIDES.find((side) => elements / side ** 2 >= ENOUGH_GROUPS) ?? 64;
}

/** What {@linkcode onTiles} must know of an op besides its signature. */
export interface Tiled {
  /** What shaders/matmul_unrolled.wgsl asks for. */
  readonly wgsl: string;
  /** Whether the arguments lie so that they can be read in vectors of four. */
  fits(dims: Dims, scalars: Scalars): boolean;
  /** Rows and columns of the product, and how many of its elements are wanted. */
  product(dims: Dims, scalars: Scalars): {
    readonly rows: number;
    readonly columns: number;
    readonly elements?: number;
  };
}

/** Variants of a matrix product by shaders/matmul_unrolled.wgsl, one for each size of tile. */
export function onTiles(op: Op, { wgsl, fits, product }: Tiled): Variant[] {
  return SIDES.map((side) => ({
    op: {
      ...op,
      name: `${op.name} ${side}×${side}`,
      wgsl: `const SIDE = ${side}u;\n${wgsl}${unroll(template, { FOURS: side / 32 })}`,
      workgroups(dims, scalars) {
        const { rows, columns } = product(dims, scalars);
        return [Math.ceil(columns / side), Math.ceil(rows / side), 1];
      },
    },
    fits,
    suits(dims, scalars) {
      const { rows, columns, elements = rows * columns } = product(dims, scalars);
      return tileSide(elements) === side;
    },
  }));
}
