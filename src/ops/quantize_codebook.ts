/** For the scheme `codebook`: levels that were found for the weights at hand. */
import wgsl from "../../shaders/quantize_codebook.wgsl" with { type: "text" };
import { midpoints } from "./codebook.ts";
import { MAX_EXTENT } from "./grid.ts";
import { defineOp, type Dims, type Scalars, spread } from "../op.ts";

/** Why A tables of K levels do not serve R rows, or `true`. */
export function checkTables(
  { R = 0, A = 0, K = 0 }: Dims,
  { table_rows = 0 }: Scalars,
): true | string {
  if (!(table_rows >= 1 && table_rows <= MAX_EXTENT)) {
    return `a table must serve 1 to ${MAX_EXTENT} rows, got ${table_rows}`;
  }
  if (!(K >= 1 && K <= 256)) return `a table must have 1 to 256 levels, got ${K}`;
  const tables = Math.ceil(R / table_rows);
  return A === tables ||
    `${R} rows, ${table_rows} a table, have ${tables} tables, got A = ${A}`;
}

/**
 * The codes of the nearest levels. `table` has K ascending levels for every `table_rows` rows; a
 * value half way between two levels, as f32 has their midpoint, takes the lower one.
 */
export const quantizeCodebook = defineOp({
  name: "quantize_codebook",
  inputs: { w: "f32|bf16|f16[R, C]", table: "f32[A, K]" },
  outputs: { codes: "u8[R, C]" },
  scalars: { table_rows: "u32" },
  wgsl,
  workgroups: ({ R = 0, C = 0 }) => spread(Math.ceil(R * C / 4)),
  check: checkTables,
  reference({ w, table, codes }, { R = 0, C = 0, K = 0 }, { table_rows = 1 }) {
    for (let r = 0; r < R; r++) {
      const first = Math.floor(r / table_rows) * K;
      const bounds = midpoints(table!.slice(first, first + K));
      for (let i = r * C; i < (r + 1) * C; i++) {
        codes![i] = bounds.reduce((rank, bound) => rank + Number(w![i]! > bound), 0);
      }
    }
  },
});
