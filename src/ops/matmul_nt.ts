/** Every float linear of a model, and the language model's head: where the time goes. */
import wgsl from "../../shaders/matmul_nt.wgsl" with { type: "text" };
import tile from "../../shaders/matmul_tile.wgsl" with { type: "text" };
import vectors from "../../shaders/matmul_nt_vectors.wgsl" with { type: "text" };
import blocks from "../../shaders/matmul_x_y.wgsl" with { type: "text" };
import f32 from "../../shaders/stored_f32.wgsl" with { type: "text" };
import half from "../../shaders/stored_half.wgsl" with { type: "text" };
import { defineOp, type Dims, type Op, type Scalars } from "../op.ts";
import { type Draw, type Part, type Seen, stretch, U, type Values } from "../sampling.ts";
import { onTiles } from "./tiles.ts";

/** Why R columns from `column` do not fit a result of Y columns, or `true`. */
export function checkColumns({ R = 0, Y = 0 }: Dims, { column = 0 }: Scalars): true | string {
  return column + R <= Y ||
    `R = ${R} columns from ${column} on do not fit in Y = ${Y}`;
}

/** Some rows of both sides of a product, to be checked. */
export function partOfProduct(
  { T = 0, R = 0 }: Dims,
  { column = 0 }: Scalars,
  draw: Draw,
): Part {
  const [first, last] = stretch(R, draw, { most: 16 });
  return {
    ranges: {
      T: stretch(T, draw, { most: 2 }),
      R: [first, last],
      Y: [column + first, column + last],
    },
    scalars: { column: 0 },
  };
}

/**
 * |fl(Σ xᵢwᵢ) − Σ xᵢwᵢ| ≤ n·u·Σ|xᵢ||wᵢ| for n products summed in any order (Higham, Accuracy and
 * Stability §3.1); `extra` roundings are in each product. Columns of y that are not written may not
 * change at all.
 */
export function productBound(
  { before, dims }: Seen,
  { x, w, column, extra }: {
    readonly x: Values;
    readonly w: ArrayLike<number>;
    readonly column: number;
    readonly extra: number;
  },
): Float64Array {
  const { T = 0, R = 0, C = 0, Y = 0 } = dims;
  const allowed = new Float64Array(before.y!.length);
  for (let t = 0; t < T; t++) {
    for (let r = 0; r < R; r++) {
      let size = 0;
      for (let c = 0; c < C; c++) size += Math.abs(x[t * C + c]! * w[r * C + c]!);
      allowed[t * Y + column + r] = (C + extra) * U * size;
    }
  }
  return allowed;
}

const plain = {
  name: "matmul_nt",
  inputs: { x: "f32[T, C]", w: "f32|bf16|f16[R, C]" },
  outputs: { y: "f32[T, Y]" },
  scalars: { column: "u32" },
  wgsl: wgsl + tile,
  workgroups: ({ T = 0, R = 0 }) => [Math.ceil(R / 64), Math.ceil(T / 64), 1],
  work: ({ T = 0, R = 0, C = 0 }) => T * R * C,
  check: checkColumns,
  sampling: {
    part: partOfProduct,
    bounds: {
      y: (view) => {
        const { before: { x, w }, scalars: { column = 0 } } = view;
        return productBound(view, { x: x!, w: w!, column, extra: 2 });
      },
    },
  },
  reference({ x, w, y }, { T = 0, R = 0, C = 0, Y = 0 }, { column = 0 }) {
    for (let t = 0; t < T; t++) {
      for (let r = 0; r < R; r++) {
        let sum = 0;
        for (let c = 0; c < C; c++) sum += x![t * C + c]! * w![r * C + c]!;
        y![t * Y + column + r] = sum;
      }
    }
  },
} as const satisfies Op;

/**
 * y[t, column + r] = Σ x[t, c]·w[r, c]: activations times a weight. Other columns of y stay as they
 * are.
 */
export const matmulNt = defineOp({
  ...plain,
  variants: ([["f32[R, C]", f32], ["bf16|f16[R, C]", half]] as const).flatMap(([w, stored]) =>
    onTiles({ ...plain, inputs: { ...plain.inputs, w } }, {
      wgsl: stored + vectors + blocks,
      fits: ({ C = 0 }) => C > 0 && C % 4 === 0,
      product: ({ T = 0, R = 0 }) => ({ rows: T, columns: R }),
    })
  ),
});
