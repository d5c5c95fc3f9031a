/**
 * GPTQ's checkpoints read: which weights they hold, and their codes and scales on a device. Groups
 * of neighbouring columns and the symmetric zero point are what a scheme of Sluice can say; others
 * are refused when a weight's own tensors tell of them.
 */
import type { Scope } from "../../backend.ts";
import { UnsupportedError } from "../../errors.ts";
import type { ReadTensor, StoredWeight } from "../../format.ts";
import { unpackBits } from "../../ops/unpack_bits.ts";
import { type IntScheme, type Quantized, tileOf } from "../../scheme.ts";
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
import { readScaleColumns, takeColumns } from "../columns.ts";
import { layout, zeroWords } from "./layout.ts";
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
  const { name, shape } = stored;
  const scheme = stored.scheme as IntScheme;
  const [outputs, columns] = matrixShape(shape);
  const slice = rows ?? { from: 0, to: outputs };
  checkRows(slice, { name, rows: outputs, step: 1 });
  const count = slice.to - slice.from;
  const { backend } = scope;
  await checkGroups(stored, read);
  await checkZeros(stored, read);

  const codes = scope.alloc("i8", [count, columns]);
  const part = partOf(stored, "qweight");
  const cells = wordsOf(await readPart(part, read));
  const words = new Uint32Array(count * part.shape[0]!);
  takeColumns(words, slice.from, { cells, outputs });
  {
    using scratch = backend.scope();
    const packed = scratch.alloc("u32", [count, part.shape[0]!]);
    backend.write(packed, bytesOf(words));
    backend.run(unpackBits, { packed, codes }, { bits: scheme.bits });
  }
  const scales = await readScaleColumns(partOf(stored, "scales"), read, slice);
  const scale = scope.alloc("f32", [count, scales.length / count]);
  const zero = scope.alloc("i8", scale.shape);
  backend.write(scale, bytesOf(scales));
  backend.write(zero, new Uint8Array(scales.length));
  return { scheme, rows: count, columns, tensors: { codes, scale, zero } };
}

function unreadable(tensor: string, reason: string): never {
  throw new UnsupportedError(`Cannot read "${tensor}": ${reason}.`, { what: tensor, reason });
}

/** @throws {UnsupportedError} columns do not lie in groups of neighbours. */
async function checkGroups(stored: StoredWeight, read: ReadTensor): Promise<void> {
  const part = partOf(stored, "g_idx");
  const groups = wordsOf(await readPart(part, read));
  const [, size] = tileOf((stored.scheme as IntScheme).strategy, stored.shape);
  if (groups.every((group, i) => group === Math.floor(i / size))) return;
  unreadable(
    part.name,
    "its columns are in groups that follow the order of activations (desc_act), and only groups of neighbours are read",
  );
}

/** @throws {UnsupportedError} a zero point is not 2^(b−1), stored less one. */
async function checkZeros(stored: StoredWeight, read: ReadTensor): Promise<void> {
  const { bits } = stored.scheme as IntScheme;
  const part = partOf(stored, "qzeros");
  const [, width = 1] = part.shape;
  const words = wordsOf(await readPart(part, read));
  const pattern = zeroWords(bits);
  // Fields past the last output mean nothing.
  const rest = stored.shape[0]! * bits % 32;
  const last = rest === 0 ? ~0 : 2 ** rest - 1;
  const same = words.every((word, i) => {
    const column = i % width;
    const mask = column === width - 1 ? last : ~0;
    return ((word ^ pattern[column % bits]!) & mask) === 0;
  });
  if (same) return;
  unreadable(
    part.name,
    `its zero points are not ${2 ** (bits - 1)}, stored less one, and asymmetric GPTQ is not read`,
  );
}

/**
 * The weights of a checkpoint; undefined when its section is not of GPTQ. Headers tell all of it.
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
    const scheme = schemeFor(module, scaleDTypeOf(`${module}.scales`, tensors));
    const [words = 0, outputs = 0] = codes.shape;
    // Only g_idx tells the columns where they do not fill the last word.
    const inputs = tensors.get(`${module}.g_idx`)?.shape[0] ??
      Math.floor(words * 32 / scheme.bits);
    const shape = [outputs, inputs];
    const parts = findParts(name, layout({ name, dtype: "f16", shape }, scheme), tensors);
    weights.set(name, { name, shape, scheme, parts });
  }
  return weights;
}
