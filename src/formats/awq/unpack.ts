/**
 * AWQ's checkpoints read: which weights they hold, and their codes, scales and zero points on a
 * device.
 */
import type { Scope } from "../../backend.ts";
import { UnsupportedError } from "../../errors.ts";
import type { ReadTensor, StoredWeight } from "../../format.ts";
import { unpackBits } from "../../ops/unpack_bits.ts";
import type { Quantized } from "../../scheme.ts";
import type { Rows, TensorSource } from "../../source.ts";
import { matrixShape } from "../../tensor.ts";
import {
  bytesOf,
  checkRows,
  findParts,
  partOf,
  readPart,
  scaleDTypeOf,
  wordsOf,
} from "../bytes.ts";
import { readScaleColumns } from "../columns.ts";
import { layout, WORD } from "./layout.ts";
import { takeCodes, takeZeros } from "./nibbles.ts";
import { readSection } from "./section.ts";

/**
 * A stored weight, or rows of it, on a device. Its tensors are read whole: rows of a weight are
 * columns of them.
 */
export async function unpack(
  stored: StoredWeight,
  read: ReadTensor,
  { scope, rows }: { readonly scope: Scope; readonly rows?: Rows },
): Promise<Quantized> {
  const { name, shape, scheme } = stored;
  const [outputs, columns] = matrixShape(shape);
  const slice = rows ?? { from: 0, to: outputs };
  checkRows(slice, { name, rows: outputs, step: WORD });
  const count = slice.to - slice.from;
  const { backend } = scope;
  const place = { width: outputs / WORD, from: slice.from };
  const cellsOf = async (suffix: string) => wordsOf(await readPart(partOf(stored, suffix), read));

  const codes = scope.alloc("i8", [count, columns]);
  const words = new Uint32Array(count * columns / WORD);
  takeCodes(words, { ...place, cells: await cellsOf("qweight") });
  {
    using scratch = backend.scope();
    const packed = scratch.alloc("u32", [count, columns / WORD]);
    backend.write(packed, bytesOf(words));
    backend.run(unpackBits, { packed, codes }, { bits: 4 });
  }
  const scales = await readScaleColumns(partOf(stored, "scales"), read, slice);
  const zeros = new Int8Array(scales.length);
  takeZeros(zeros, { ...place, cells: await cellsOf("qzeros") });
  const scale = scope.alloc("f32", [count, scales.length / count]);
  const zero = scope.alloc("i8", scale.shape);
  backend.write(scale, bytesOf(scales));
  backend.write(zero, bytesOf(zeros));
  return { scheme, rows: count, columns, tensors: { codes, scale, zero } };
}

/**
 * The weights of a checkpoint; undefined when its section is not of AWQ. Headers tell all of it.
 */
export function recognize(
  { tensors, config }: Pick<TensorSource, "tensors" | "config">,
): Map<string, StoredWeight> | undefined {
  const schemeFor = readSection(config);
  if (!schemeFor) return undefined;
  const weights = new Map<string, StoredWeight>();
  for (const codes of tensors.values()) {
    if (!codes.name.endsWith(".qweight")) continue;
    const module = codes.name.slice(0, -".qweight".length);
    const name = `${module}.weight`;
    const scheme = schemeFor(scaleDTypeOf(`${module}.scales`, tensors));
    const [inputs = 0, words = 0] = codes.shape;
    if (inputs % WORD !== 0) {
      const reason = `it has ${inputs} columns, and AWQ is read in multiples of ${WORD}`;
      throw new UnsupportedError(`Cannot read "${name}": ${reason}.`, { what: name, reason });
    }
    const shape = [words * WORD, inputs];
    const parts = findParts(name, layout({ name, dtype: "f16", shape }, scheme), tensors);
    weights.set(name, { name, shape, scheme, parts });
  }
  return weights;
}
