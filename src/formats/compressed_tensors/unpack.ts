/**
 * compressed-tensors' checkpoints read: which weights they hold, and their codes, scales and zero
 * points on a device.
 */
import type { Scope, Tensor } from "../../backend.ts";
import { CheckpointError } from "../../errors.ts";
import type { ReadTensor, StoredWeight } from "../../format.ts";
import { unpackBits } from "../../ops/unpack_bits.ts";
import { type IntScheme, type Quantized, scaleShape } from "../../scheme.ts";
import type { Rows, TensorSource } from "../../source.ts";
import { elementCount, matrixShape, type TensorInfo } from "../../tensor.ts";
import { bytesOf, checkRows, partOf, readPart, scaleDTypeOf, widened } from "../bytes.ts";
import {
  hasInputScale,
  layout,
  packedBits,
  packedZeroBits,
  rowStep,
  scaleRows,
  type Stored,
  zeroPoints,
} from "./layout.ts";
import { readSection } from "./section.ts";
import { packedRows, unpackZeroPoints } from "./zero_points.ts";

/** A stored weight, or rows of it, on a device. */
export async function unpack(
  stored: StoredWeight,
  read: ReadTensor,
  { scope, rows }: { readonly scope: Scope; readonly rows?: Rows },
): Promise<Quantized> {
  const { name, shape } = stored;
  const scheme = stored.scheme as Stored;
  const [height, columns] = matrixShape(shape);
  const slice = rows ?? { from: 0, to: height };
  checkRows(slice, { name, rows: height, step: rowStep(scheme, shape) });
  const count = slice.to - slice.from;
  const { backend } = scope;
  const [, across] = scaleShape(scheme.strategy, shape);
  const tiles = scaleRows(scheme, shape, slice);

  const scalePart = partOf(stored, "weight_scale");
  const scaleBytes = await readPart(scalePart, read, tiles);
  const scale = scope.alloc("f32", [tiles.to - tiles.from, across]);
  backend.write(scale, bytesOf(widened(scaleBytes, scheme.scaleDType)));
  const inputs = await readInputScale(stored, read, scope);

  if (scheme.kind === "fp8") {
    const codes = scope.alloc("f8_e4m3", [count, columns]);
    backend.write(codes, await readPart(partOf(stored, "weight"), read, rows));
    return { scheme, rows: count, columns, tensors: { codes, scale, ...inputs } };
  }
  const codes = scope.alloc("i8", [count, columns]);
  const bits = packedBits(scheme);
  if (bits) {
    const part = partOf(stored, "weight_packed");
    using scratch = backend.scope();
    const packed = scratch.alloc("u32", [count, part.shape[1]!]);
    backend.write(packed, await readPart(part, read, rows));
    backend.run(unpackBits, { packed, codes }, { bits });
  } else {
    backend.write(codes, await readPart(partOf(stored, "weight"), read, rows));
  }
  const zero = scope.alloc("i8", scale.shape);
  backend.write(zero, await readZeroPoints(stored, read, slice));
  return { scheme, rows: count, columns, tensors: { codes, scale, zero, ...inputs } };
}

/** The fixed scale of the input, where there is one. */
async function readInputScale(
  stored: StoredWeight,
  read: ReadTensor,
  scope: Scope,
): Promise<{ readonly input_scale?: Tensor }> {
  const scheme = stored.scheme as Stored;
  if (!hasInputScale(scheme)) return {};
  const bytes = await readPart(partOf(stored, "input_scale"), read);
  const input_scale = scope.alloc("f32", [1, 1]);
  scope.backend.write(input_scale, bytesOf(widened(bytes, scheme.scaleDType)));
  return { input_scale };
}

/** i8[A, B] zero points of rows of a weight; zeros when it has none. */
async function readZeroPoints(
  stored: StoredWeight,
  read: ReadTensor,
  slice: Rows,
): Promise<Uint8Array<ArrayBuffer>> {
  const scheme = stored.scheme as IntScheme;
  const [, across] = scaleShape(scheme.strategy, stored.shape);
  const tiles = scaleRows(scheme, stored.shape, slice);
  if (zeroPoints(scheme) === "none") return new Uint8Array((tiles.to - tiles.from) * across);
  const part = partOf(stored, "weight_zero_point");
  const bits = packedZeroBits(scheme);
  if (!bits) return await readPart(part, read, tiles);
  const words = await readPart(part, read, {
    from: slice.from * bits / 32,
    to: packedRows(slice.to, bits),
  });
  return bytesOf(unpackZeroPoints(new Uint32Array(words.slice().buffer), {
    rows: slice.to - slice.from,
    columns: across,
    bits,
  }));
}

/** The shape that `weight_shape` holds. */
async function readShape(part: TensorInfo, read: ReadTensor): Promise<readonly number[]> {
  const sizes = part.dtype === "i64" && elementCount(part.shape) <= 8
    ? Array.from(new BigInt64Array((await readPart(part, read)).slice().buffer), Number)
    : [];
  if (
    sizes.length >= 2 && sizes.every((size) => size > 0) &&
    Number.isSafeInteger(elementCount(sizes))
  ) {
    return sizes;
  }
  throw new CheckpointError(
    `Cannot read "${part.name}": expected the sizes of a weight as i64, got ${part.dtype}[${part.shape}] ${sizes}`,
    { tensor: part.name },
  );
}

/** The stored tensors of a weight, checked against what `layout` says of its scheme. */
function partsOf(
  weight: TensorInfo,
  scheme: Stored,
  tensors: ReadonlyMap<string, TensorInfo>,
): TensorInfo[] {
  return layout(weight, scheme).map((want) => {
    const found = tensors.get(want.name);
    // Scales of one column are seen as [R] and as [R, 1].
    const same = want.name.endsWith("_packed")
      ? String(found?.shape) === String(want.shape)
      : found && elementCount(found.shape) === elementCount(want.shape);
    if (found && same && found.dtype === want.dtype) return found;
    const crosses = 32 % (packedBits(scheme) ?? 32) !== 0;
    throw new CheckpointError(
      `Cannot read "${weight.name}": "${want.name}" must be ${want.dtype}[${want.shape}], ` +
        (found ? `it is ${found.dtype}[${found.shape}]` : "it is missing") +
        (crosses ? "; before June 2026, 3, 5, 6 and 7 bits were packed otherwise" : ""),
      { tensor: want.name },
    );
  });
}

/** The weights of a checkpoint; undefined when its section is not of compressed-tensors. */
export async function recognize(
  source: Pick<TensorSource, "tensors" | "config" | "read">,
): Promise<Map<string, StoredWeight> | undefined> {
  const schemeFor = readSection(source.config);
  if (!schemeFor) return undefined;
  const { tensors } = source;
  const read: ReadTensor = (name, rows) => source.read(name, rows);
  const weights = new Map<string, StoredWeight>();
  for (const scale of tensors.values()) {
    if (!scale.name.endsWith(".weight_scale")) continue;
    const module = scale.name.slice(0, -".weight_scale".length);
    const name = `${module}.weight`;
    const dtype = scaleDTypeOf(scale.name, tensors);
    const scheme = schemeFor(module, dtype);
    const sizes = tensors.get(`${module}.weight_shape`);
    const shape = packedBits(scheme) && sizes
      ? await readShape(sizes, read)
      : tensors.get(name)?.shape ?? [0, 0];
    const parts = partsOf({ name, dtype, shape }, scheme, tensors);
    weights.set(name, { name, shape, scheme, parts });
  }
  return weights;
}
