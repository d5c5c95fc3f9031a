/**
 * 4 to 16 levels that are found for the weights at hand, a table for a whole weight or for some
 * rows of it, where no scale is needed: Lloyd-Max, and weighted k-means where the importance of
 * columns is known. Levels are found by the host (linalg/lloyd_max.ts), the same on every backend;
 * codes are chosen by kernels. `search` is not looked at: there is one way to find levels, least
 * squares.
 */
import type { Scope, Tensor } from "../backend.ts";
import { lloydMax } from "../linalg/lloyd_max.ts";
import { floatsFrom, roundTo } from "../number.ts";
import { dequantizeCodebook } from "../ops/dequantize_codebook.ts";
import { quantizeCodebook } from "../ops/quantize_codebook.ts";
import type { LearnedCodebookScheme, Quantized, SchemeKind } from "../scheme.ts";
import { elementCount, matrixShape, type Shape } from "../tensor.ts";
import { activationsLabel, inputBytes, multiplyValues } from "./inputs.ts";

/** How many levels a table has. */
function levelCount({ bits }: LearnedCodebookScheme): number {
  return 2 ** bits;
}

/** Rows that one table serves. */
function rowsPerTable({ tableRows }: LearnedCodebookScheme, shape: Shape): number {
  const [rows] = matrixShape(shape);
  return tableRows === 0 ? rows : Math.min(rows, tableRows);
}

function codeBytes(scheme: LearnedCodebookScheme, rows: number, columns: number): number {
  const tables = Math.ceil(rows / rowsPerTable(scheme, [rows, columns]));
  return rows * columns + tables * levelCount(scheme) * 4;
}

function dequantize({ scheme, rows, columns, tensors }: Quantized, scope: Scope): Tensor {
  const w = scope.alloc("f32", [rows, columns]);
  const { codes, table } = tensors as Record<"codes" | "table", Tensor>;
  const table_rows = rowsPerTable(scheme as LearnedCodebookScheme, [rows, columns]);
  scope.backend.run(dequantizeCodebook, { codes, table, w }, { table_rows });
  return w;
}

/** See {@linkcode LearnedCodebookScheme}. */
export const learnedCodebook: SchemeKind<LearnedCodebookScheme> = {
  kinds: ["codebook"],
  label(scheme) {
    const { tableRows } = scheme;
    const tables = tableRows === 0
      ? "per tensor"
      : tableRows === 1
      ? "per row"
      : `for ${tableRows} rows`;
    return `codebook of ${levelCount(scheme)} levels, a table ${tables}` +
      activationsLabel(scheme.activations ?? "none");
  },
  check({ bits, tableRows }, shape) {
    if (![2, 3, 4].includes(bits)) return `codebooks have 2 to 4 bits here, not ${bits}`;
    if (!Number.isSafeInteger(tableRows) || tableRows < 0) {
      return `a table is for a whole number of rows, or 0 for all, not for ${tableRows}`;
    }
    if (elementCount(shape) === 0) return `a weight of shape [${shape}] has no elements`;
    return true;
  },
  rowStep: rowsPerTable,
  // Beside codes and tables, the values that the host looks at.
  workBytes: (scheme, rows, columns) => codeBytes(scheme, rows, columns) + rows * columns * 4,
  codeBytes,
  linearBytes: (scheme, shape, tokens) =>
    elementCount(shape) * 4 + inputBytes(scheme, shape, tokens),
  async quantize(scheme, weight, { scope, importance }) {
    const { backend } = scope;
    const [rows, columns] = matrixShape(weight.shape);
    const read = await backend.read(weight, ...(importance ? [importance] : []));
    const values = floatsFrom(weight.dtype as "f32" | "bf16" | "f16", read[0]!);
    const weights = read[1] && new Float32Array(read[1].buffer);
    const count = levelCount(scheme);
    const table_rows = rowsPerTable(scheme, weight.shape);
    const tables = Math.ceil(rows / table_rows);
    const levels = new Float32Array(tables * count);
    const size = table_rows * columns;
    for (let i = 0; i < tables; i++) {
      const found = lloydMax(values.subarray(i * size, (i + 1) * size), {
        count,
        ...(weights ? { weights } : {}),
      });
      levels.set(found.map((level) => roundTo(scheme.tableDType, Math.fround(level))), i * count);
    }
    const table = scope.alloc("f32", [tables, count]);
    backend.write(table, new Uint8Array(levels.buffer));
    const codes = scope.alloc("u8", [rows, columns]);
    backend.run(quantizeCodebook, { w: weight, table, codes }, { table_rows });
    return { scheme, rows, columns, tensors: { codes, table } };
  },
  dequantize,
  linear: (quantized, x, y, at) => multiplyValues(quantized, x, y, { dequantize, ...at }),
};
