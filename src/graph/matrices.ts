/**
 * The stored matrices behind the linears of a block: what is loaded, quantized and packed as one.
 * Pure.
 */
import type { Block, Linear, State, View } from "../family.ts";

/** A linear, and which rows of the matrix it has. */
export interface MatrixPart {
  /** The state it makes. */
  readonly state: State;
  readonly linear: Linear;
  /** Numbers of its rows in the matrix, in its own order; undefined: all, in order. */
  readonly rows: Uint32Array<ArrayBuffer> | undefined;
}

/** A weight as it is stored: [R, C]. */
export interface Matrix {
  /** The tensor's name; of a slice of a stack with its number, `…experts.gate_up_proj[3]`. */
  readonly name: string;
  readonly at: Omit<View, "rows">;
  readonly rows: number;
  readonly columns: number;
  /** The tensor of its bias, [R]. */
  readonly bias: string | undefined;
  readonly parts: readonly MatrixPart[];
}

/** What a matrix is called. */
export function matrixName({ of, index }: Pick<View, "of" | "index">): string {
  return index === undefined ? of : `${of}[${index}]`;
}

/** The matrices of some linears, in the order of the first of each. */
export function matricesOf(linears: Iterable<readonly [State, Linear]>): Matrix[] {
  const groups = Map.groupBy(linears, ([, { at }]) => matrixName(at));
  return [...groups].map(([name, members]): Matrix => {
    const [, { at: { rows: _, ...at }, columns, bias }] = members[0]!;
    const rows = members.reduce((sum, [, linear]) => sum + linear.rows, 0);
    return {
      name,
      at,
      rows,
      columns,
      bias,
      parts: members.map(([state, linear]) => ({ state, linear, rows: rowsOf(linear, rows) })),
    };
  });
}

/** Tensors of a block that are no matrices: norms and biases. */
export function vectorsOf({ nodes }: Pick<Block, "nodes">): string[] {
  const names = nodes.flatMap((node) => {
    if (node.op === "norm") return [node.norm.weight, node.norm.bias];
    return node.op === "linears" ? Object.values(node.to).map(({ bias }) => bias) : [];
  });
  return [...new Set(names.filter((name) => name !== undefined))];
}

/** The numbers of a linear's rows in its matrix; undefined: all of them, in order. */
export function rowsOf(
  { at: { rows: range } }: Pick<Linear, "at">,
  total: number,
): Uint32Array<ArrayBuffer> | undefined {
  if (!range) return undefined;
  const has = (row: number) => {
    if ("perHead" in range) {
      const within = row % range.perHead;
      return within >= range.from && within < range.to;
    }
    if ("every" in range) return row % range.every === range.from;
    return row >= range.from && row < range.to;
  };
  return Uint32Array.from(Array.from({ length: total }, (_, row) => row).filter(has));
}
