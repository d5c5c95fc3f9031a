/**
 * compressed-tensors' checkpoints (its version 0.20, and what vLLM reads): int weights bit-packed
 * in I32 words or as I8, fp8 weights, scales in the model's dtype. Refuses blocks that do not tile
 * a weight: older readers infer the block from the number of scales.
 */
import type { Scope } from "../backend.ts";
import type { Format, Packer, Piece } from "../format.ts";
import { E4M3_MAX } from "../number.ts";
import { packBits } from "../ops/pack_bits.ts";
import { type Quantized, scaleShape } from "../scheme.ts";
import { byteLength, matrixShape, type TensorInfo } from "../tensor.ts";
import { bytesOf, checkFinite, checkRows, moduleOf, narrowed } from "./bytes.ts";
import {
  hasInputScale,
  layout,
  packedBits,
  packedZeroBits,
  rowStep,
  scaleRows,
  type Stored,
  supports,
  zeroPoints,
} from "./compressed_tensors/layout.ts";
import { loadersOf } from "./compressed_tensors/loaders.ts";
import { section } from "./compressed_tensors/section.ts";
import { recognize, unpack } from "./compressed_tensors/unpack.ts";
import { packZeroPoints } from "./compressed_tensors/zero_points.ts";

/** The greatest code without its sign, counted from the zero point where there is one. */
function greatestCode(scheme: Stored): number {
  if (scheme.kind === "fp8") return E4M3_MAX;
  return 2 ** (scheme.grid === "affine" ? scheme.bits : scheme.bits - 1);
}

function packer(weight: TensorInfo, scheme: Stored, scope: Scope): Packer {
  const { name, shape } = weight;
  const [rows] = matrixShape(shape);
  const step = rowStep(scheme, shape);
  const parts = new Map(layout(weight, scheme).map((part) => [part.name, part]));
  const module = moduleOf(name)!;
  const { backend } = scope;
  const [, across] = scaleShape(scheme.strategy, shape);
  const bits = packedBits(scheme);
  const zeroBits = packedZeroBits(scheme);

  /** Bytes that begin at a row of a stored tensor. */
  function piece(tensor: string, row: number, bytes: Uint8Array): Piece {
    const { dtype, shape: [, ...rest] } = parts.get(tensor)!;
    return { tensor, offset: row * byteLength({ dtype, shape: rest }), bytes };
  }

  /** The fixed scale of the input, which every slice of the weight comes with. */
  async function inputPieces(tensors: Quantized["tensors"], scratch: Scope): Promise<Piece[]> {
    if (!hasInputScale(scheme)) return [];
    const scale = tensors.input_scale;
    if (!scale) throw new RangeError(`Cannot pack "${name}": the scale of its input is missing`);
    const [bytes] = await backend.read(narrowed(scale, scheme.scaleDType, scratch));
    return [piece(`${module}.input_scale`, 0, bytes!)];
  }

  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows, step });
      using scratch = backend.scope();
      let codes = tensors.codes!;
      if (bits) {
        const [, words] = parts.get(`${module}.weight_packed`)!.shape;
        const packed = scratch.alloc("u32", [slice.to - slice.from, words!]);
        backend.run(packBits, { codes, packed }, { bits });
        codes = packed;
      }
      const wanted = zeroPoints(scheme) === "none" ? [] : [tensors.zero!];
      const scales = narrowed(tensors.scale!, scheme.scaleDType, scratch);
      const [codeBytes, scaleBytes, zeroBytes] = await backend.read(codes, scales, ...wanted);
      checkFinite(scaleBytes!, scheme.scaleDType, name, { code: greatestCode(scheme) });
      const inputs = slice.from === 0 ? await inputPieces(tensors, scratch) : [];
      const at = scaleRows(scheme, shape, slice).from;
      const pieces = [
        piece(bits ? `${module}.weight_packed` : name, slice.from, codeBytes!),
        piece(`${module}.weight_scale`, at, scaleBytes!),
        ...inputs,
      ];
      const zeroName = `${module}.weight_zero_point`;
      if (zeroBits) {
        const zero = new Int8Array(zeroBytes!.buffer);
        const words = packZeroPoints(zero, { columns: across, bits: zeroBits });
        pieces.push(piece(zeroName, slice.from * zeroBits / 32, bytesOf(words)));
      } else if (zeroBytes) {
        pieces.push(piece(zeroName, at, zeroBytes));
      }
      return pieces;
    },
    finish() {
      if (!bits) return Promise.resolve([]);
      const sizes = BigInt64Array.from(shape, BigInt);
      return Promise.resolve([piece(`${module}.weight_shape`, 0, bytesOf(sizes))]);
    },
  };
}

/** See the head of this file. */
export const compressedTensors: Format = {
  name: "compressed-tensors",
  quantMethod: "compressed-tensors",
  supports,
  rowStep: (scheme, { shape }) => rowStep(scheme as Stored, shape),
  layout: (weight, scheme) => layout(weight, scheme as Stored),
  packer: (weight, scheme, scope) => packer(weight, scheme as Stored, scope),
  section,
  recognize,
  unpack,
  loaders: loadersOf,
};
