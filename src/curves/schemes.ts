/** The schemes that curves are drawn of, and what a weight takes in each. */
import { bitsandbytes } from "../formats/bitsandbytes.ts";
import { compressedTensors } from "../formats/compressed_tensors.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { IntScheme, ScaleDType, ScaleSearch, Scheme } from "../scheme.ts";
import { BITS, byteLength, elementCount, sum } from "../tensor.ts";

/** A family of schemes: one line, a point for each width. */
export interface Line {
  readonly name: string;
  /** Whether the levels are equally far apart. */
  readonly uniform: boolean;
  readonly search: ScaleSearch;
  schemes(shape: readonly [rows: number, columns: number], scaleDType: ScaleDType): Scheme[];
}

const WIDTHS = [2, 3, 4, 5, 6, 7, 8] as const;

/** The largest group of at most 64 that divides a row. */
function groupFor(columns: number): number {
  let size = Math.min(64, columns);
  while (columns % size !== 0) size--;
  return size;
}

function ints(
  scaleDType: ScaleDType,
  { grid, strategy }: Pick<IntScheme, "grid" | "strategy">,
): Scheme[] {
  return WIDTHS.map((bits) => ({
    kind: "int",
    bits,
    grid,
    strategy,
    scaleDType,
    activations: "none",
  }));
}

function tables(tableRows: number, tableDType: ScaleDType): Scheme[] {
  return ([2, 3, 4] as const).map((bits) => ({ kind: "codebook", bits, tableRows, tableDType }));
}

/** Every line, in the order of legends. */
export const LINES: readonly Line[] = [
  {
    name: "int, groups of 64",
    uniform: true,
    search: "minmax",
    schemes: ([, columns], scaleDType) =>
      ints(scaleDType, { grid: "full", strategy: { kind: "group", size: groupFor(columns) } }),
  },
  {
    name: "int with zero points, groups of 64",
    uniform: true,
    search: "minmax",
    schemes: ([, columns], scaleDType) =>
      ints(scaleDType, { grid: "affine", strategy: { kind: "group", size: groupFor(columns) } }),
  },
  {
    name: "int, one scale of least squares",
    uniform: true,
    search: "frobenius",
    schemes: (_shape, scaleDType) =>
      ints(scaleDType, { grid: "full", strategy: { kind: "tensor" } }),
  },
  {
    name: "Lloyd-Max, one table",
    uniform: false,
    search: "frobenius",
    schemes: (_shape, scaleDType) => tables(0, scaleDType),
  },
  {
    name: "Lloyd-Max, a table per row",
    uniform: false,
    search: "frobenius",
    schemes: (_shape, scaleDType) => tables(1, scaleDType),
  },
  {
    name: "NF4, blocks of 64",
    uniform: false,
    search: "minmax",
    schemes: () => [{ kind: "nf4", block: 64, doubleQuant: true }],
  },
  {
    name: "FP4, blocks of 64",
    uniform: false,
    search: "minmax",
    schemes: () => [{ kind: "fp4", block: 64, doubleQuant: true }],
  },
  {
    name: "FP8 E4M3, a scale per row",
    uniform: false,
    search: "minmax",
    schemes: (_shape, scaleDType) => [
      { kind: "fp8", strategy: { kind: "channel" }, scaleDType, activations: "none" },
    ],
  },
  {
    name: "LLM.int8(), a scale per row",
    uniform: true,
    search: "minmax",
    schemes: () => [{ kind: "llm_int8", threshold: 6 }],
  },
];

/**
 * Bits a weight takes in a scheme, scales and all: as the format stores it that holds the scheme;
 * for codebooks, which no format stores as codes, those of the codes and the tables.
 */
export function storedBits(
  scheme: Scheme,
  { shape, dtype }: {
    readonly shape: readonly [rows: number, columns: number];
    readonly dtype: "f32" | "bf16" | "f16";
  },
): number {
  const count = elementCount(shape);
  if (scheme.kind === "codebook") {
    const tables = scheme.tableRows === 0 ? 1 : Math.ceil(shape[0] / scheme.tableRows);
    return scheme.bits + tables * 2 ** scheme.bits * BITS[scheme.tableDType] / count;
  }
  const format = "strategy" in scheme ? compressedTensors : bitsandbytes;
  return sum(format.layout({ name: "of.weight", dtype, shape }, scheme), byteLength) * 8 / count;
}

/** A scheme in words. */
export function schemeLabel(scheme: Scheme): string {
  return schemeKind(scheme).label(scheme);
}
