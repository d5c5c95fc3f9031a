/**
 * Learned codebooks as they are: codes, tables, and the sizes of each weight. A format of Sluice's
 * own, which no loader reads yet; `plain` stores the values instead. Of a weight `m.weight` [R, C]
 * with tables of 2^b levels for n rows each:
 *
 * - `m.weight_codes` I32 [R, ⌈C·b/32⌉]: a bitstream along each row, lowest bit first, codes from 0;
 *   bits past the row's end are 0.
 * - `m.weight_table` [⌈R/n⌉, 2^b], in the dtype that the weight had: levels, ascending.
 * - `m.weight_shape` I64: the sizes of the weight.
 *
 * `quantization_config` is `{"quant_method": "codebook", "table_rows": n}`, with 0 for all rows.
 * Refuses other schemes, and weights that differ in n.
 */
import type { Scope } from "../backend.ts";
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { Content, Format, Packer, ReadTensor, StoredWeight } from "../format.ts";
import type { LearnedCodebookScheme, Quantized, Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { Rows, TensorSource } from "../source.ts";
import { byteLength, elementCount, matrixShape, type TensorInfo } from "../tensor.ts";
import {
  bytesOf,
  checkFinite,
  checkFloatInputs,
  checkRows,
  checkSource,
  findParts,
  moduleOf,
  narrowed,
  partOf,
  readPart,
  scaleDTypeOf,
  widened,
  wordsOf,
} from "./bytes.ts";
import { quantizationSection } from "./config_json.ts";

const NAME = "codebook";

/** Rows that one table serves. */
function rowStep({ tableRows }: LearnedCodebookScheme, shape: readonly number[]): number {
  const [rows] = matrixShape(shape);
  return tableRows === 0 ? rows : Math.min(rows, tableRows);
}

function layout(
  { name, shape }: Pick<TensorInfo, "name" | "shape">,
  scheme: LearnedCodebookScheme,
): TensorInfo[] {
  const module = moduleOf(name)!;
  const { bits, tableDType } = scheme;
  const [rows, columns] = matrixShape(shape);
  const tables = Math.ceil(rows / rowStep(scheme, shape));
  const words = Math.ceil(columns * bits / 32);
  return [
    { name: `${module}.weight_codes`, dtype: "i32", shape: [rows, words] },
    { name: `${module}.weight_table`, dtype: tableDType, shape: [tables, 2 ** bits] },
    { name: `${module}.weight_shape`, dtype: "i64", shape: [shape.length] },
  ];
}

/** Codes of whole rows as words. */
function packed(codes: Uint8Array, { columns, bits }: { columns: number; bits: number }) {
  const perRow = Math.ceil(columns * bits / 32);
  const words = new Uint32Array(codes.length / columns * perRow);
  for (let i = 0, row = 0; i < codes.length; row += perRow) {
    for (let at = 0; at < columns * bits; at += bits, i++) {
      const [word, shift] = [row + (at >> 5), at & 31];
      words[word]! |= codes[i]! << shift;
      if (shift + bits > 32) words[word + 1]! |= codes[i]! >>> (32 - shift);
    }
  }
  return words;
}

/** The inverse of `packed`. */
function unpacked(words: Uint32Array, { columns, bits }: { columns: number; bits: number }) {
  const perRow = Math.ceil(columns * bits / 32);
  const codes = new Uint8Array(words.length / perRow * columns);
  const mask = 2 ** bits - 1;
  for (let i = 0, row = 0; i < codes.length; row += perRow) {
    for (let at = 0; at < columns * bits; at += bits, i++) {
      const [word, shift] = [row + (at >> 5), at & 31];
      const high = shift + bits > 32 ? words[word + 1]! << (32 - shift) : 0;
      codes[i] = (words[word]! >>> shift | high) & mask;
    }
  }
  return codes;
}

function packer(weight: TensorInfo, scheme: LearnedCodebookScheme, scope: Scope): Packer {
  const { name, shape } = weight;
  const [rows, columns] = matrixShape(shape);
  const step = rowStep(scheme, shape);
  const [codePart, tablePart, shapePart] = layout(weight, scheme) as [
    TensorInfo,
    TensorInfo,
    TensorInfo,
  ];
  const rowBytes = ({ dtype, shape: [, width = 1] }: TensorInfo) =>
    byteLength({ dtype, shape: [width] });
  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows, step });
      using scratch = scope.backend.scope();
      const [codes, table] = await scope.backend.read(
        tensors.codes!,
        narrowed(tensors.table!, scheme.tableDType, scratch),
      );
      checkFinite(table!, scheme.tableDType, name);
      const bytes = bytesOf(packed(codes!, { columns, bits: scheme.bits }));
      return [
        { tensor: codePart.name, offset: slice.from * rowBytes(codePart), bytes },
        {
          tensor: tablePart.name,
          offset: slice.from / step * rowBytes(tablePart),
          bytes: table!,
        },
      ];
    },
    finish() {
      const bytes = bytesOf(BigInt64Array.from(shape, BigInt));
      return Promise.resolve([{ tensor: shapePart.name, offset: 0, bytes }]);
    },
  };
}

async function unpack(
  stored: StoredWeight,
  read: ReadTensor,
  { scope, rows }: { readonly scope: Scope; readonly rows?: Rows },
): Promise<Quantized> {
  const { name, shape } = stored;
  const scheme = stored.scheme as LearnedCodebookScheme;
  const [height, columns] = matrixShape(shape);
  const slice = rows ?? { from: 0, to: height };
  const step = rowStep(scheme, shape);
  checkRows(slice, { name, rows: height, step });
  const { backend } = scope;
  const count = slice.to - slice.from;
  const words = wordsOf(await readPart(partOf(stored, "weight_codes"), read, slice));
  const codes = scope.alloc("u8", [count, columns]);
  backend.write(codes, unpacked(words, { columns, bits: scheme.bits }));
  const tables = { from: slice.from / step, to: Math.ceil(slice.to / step) };
  const bytes = await readPart(partOf(stored, "weight_table"), read, tables);
  const table = scope.alloc("f32", [tables.to - tables.from, 2 ** scheme.bits]);
  backend.write(table, bytesOf(widened(bytes, scheme.tableDType)));
  return { scheme, rows: count, columns, tensors: { codes, table } };
}

function section({ weights }: Content): string | undefined {
  const found = new Set(
    weights.flatMap(({ scheme }) => scheme?.kind === "codebook" ? [scheme.tableRows] : []),
  );
  if (found.size === 0) return undefined;
  if (found.size === 1) return JSON.stringify({ quant_method: NAME, table_rows: [...found][0] });
  const reason = `its section has one number of rows for all tables, not ${[...found].join(", ")}`;
  throw new UnsupportedError(`Cannot store the result in ${NAME}: ${reason}.`, {
    what: NAME,
    reason,
  });
}

async function recognize(
  source: Pick<TensorSource, "tensors" | "config" | "read">,
): Promise<Map<string, StoredWeight> | undefined> {
  const { tensors, config } = source;
  const said = quantizationSection(config);
  if (said?.quant_method !== NAME) return undefined;
  const tableRows = said.table_rows;
  if (!Number.isSafeInteger(tableRows) || Number(tableRows) < 0) {
    throw new CheckpointError(
      `Cannot read config.json: table_rows is ${JSON.stringify(tableRows)}, not a number of rows`,
      { file: "config.json" },
    );
  }
  const weights = new Map<string, StoredWeight>();
  for (const { name: table, shape: [, levels = 0] } of tensors.values()) {
    if (!table.endsWith(".weight_table")) continue;
    const module = table.slice(0, -".weight_table".length);
    const name = `${module}.weight`;
    const scheme = {
      kind: NAME,
      bits: Math.log2(levels) as LearnedCodebookScheme["bits"],
      tableRows: Number(tableRows),
      tableDType: scaleDTypeOf(table, tensors),
    } as const;
    const shape = await readShape(`${module}.weight_shape`, source);
    const verdict = schemeKind(scheme).check(scheme, shape);
    if (verdict !== true) {
      throw new CheckpointError(`Cannot read "${name}": ${verdict}.`, { tensor: table });
    }
    const parts = findParts(name, layout({ name, shape }, scheme), tensors);
    weights.set(name, { name, shape, scheme, parts });
  }
  return weights;
}

/** The sizes that a `weight_shape` holds. */
async function readShape(
  name: string,
  source: Pick<TensorSource, "tensors" | "read">,
): Promise<readonly number[]> {
  const part = source.tensors.get(name);
  const sizes = part?.dtype === "i64" && elementCount(part.shape) <= 8
    ? Array.from(
      new BigInt64Array((await readPart(part, source.read.bind(source))).slice().buffer),
      Number,
    )
    : [];
  const sound = sizes.length >= 2 && sizes.every((size) => size > 0) &&
    Number.isSafeInteger(elementCount(sizes));
  if (sound) return sizes;
  throw new CheckpointError(
    `Cannot read "${name}": expected the sizes of a weight as i64, got ${
      part ? `${part.dtype}[${part.shape}] ${sizes}` : "nothing"
    }`,
    { tensor: name },
  );
}

/** See the head of this file. */
export const codebookFormat: Format = {
  name: NAME,
  quantMethod: NAME,
  supports(scheme: Scheme, weight) {
    if (scheme.kind !== NAME) {
      return `${NAME} holds codes with tables of levels, not ${scheme.kind}`;
    }
    const inputs = checkFloatInputs(NAME, scheme);
    return inputs === true ? checkSource(NAME, weight) : inputs;
  },
  rowStep: (scheme, { shape }) => rowStep(scheme as LearnedCodebookScheme, shape),
  layout: (weight, scheme) => layout(weight, scheme as LearnedCodebookScheme),
  packer: (weight, scheme, scope) => packer(weight, scheme as LearnedCodebookScheme, scope),
  section,
  recognize,
  unpack,
  loaders: () => [{
    name: "any",
    opens: "no",
    why: "no loader yet reads codes with tables; the format plain stores the values instead",
  }],
};
