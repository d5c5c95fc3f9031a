/**
 * AWQ's GEMM layout: 4 bits with zero points, packed along the outputs, as AutoAWQ 0.2.9 and
 * GPTQModel 7.7 write and read it. Symmetric weights are stored with every zero point 8. Refuses
 * other widths and group sizes than its readers have kernels for.
 */
import type { Scope } from "../backend.ts";
import type { Format, Packer } from "../format.ts";
import { packBits } from "../ops/pack_bits.ts";
import type { IntScheme } from "../scheme.ts";
import { matrixShape, type TensorInfo } from "../tensor.ts";
import { layout, supports, WORD } from "./awq/layout.ts";
import { putCodes, putZeros } from "./awq/nibbles.ts";
import { loadersOf } from "./awq/loaders.ts";
import { section } from "./awq/section.ts";
import { recognize, unpack } from "./awq/unpack.ts";
import { bytesOf, checkFinite, checkRows, halvesOf, narrowed, wordsOf } from "./bytes.ts";
import { putColumns } from "./columns.ts";

function packer(weight: TensorInfo, scheme: IntScheme, scope: Scope): Packer {
  const { name, shape } = weight;
  const [outputs, inputs] = matrixShape(shape);
  const width = outputs / WORD;
  const { backend } = scope;
  const [qweight, qzeros, scales] = layout(weight, scheme);
  const [groups = 1] = qzeros!.shape;
  const codeCells = new Uint32Array(inputs * width);
  const zeroCells = new Uint32Array(groups * width);
  const scaleCells = new Uint16Array(groups * outputs);
  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows: outputs, step: WORD });
      using scratch = backend.scope();
      const packed = scratch.alloc("u32", [slice.to - slice.from, inputs / WORD]);
      backend.run(packBits, { codes: tensors.codes!, packed }, { bits: scheme.bits });
      const narrow = narrowed(tensors.scale!, "f16", scratch);
      const [codes, scale, zero] = await backend.read(packed, narrow, tensors.zero!);
      checkFinite(scale!, "f16", name);
      const place = { width, from: slice.from };
      putCodes(wordsOf(codes!), { ...place, cells: codeCells });
      putZeros(new Int8Array(zero!.buffer), { ...place, cells: zeroCells });
      putColumns(halvesOf(scale!), slice.from, { cells: scaleCells, outputs });
      return [];
    },
    finish() {
      return Promise.resolve([
        { tensor: qweight!.name, offset: 0, bytes: bytesOf(codeCells) },
        { tensor: qzeros!.name, offset: 0, bytes: bytesOf(zeroCells) },
        { tensor: scales!.name, offset: 0, bytes: bytesOf(scaleCells) },
      ]);
    },
  };
}

/** See the head of this file. */
export const awq: Format = {
  name: "awq",
  quantMethod: "awq",
  scaleDType: "f16",
  gathers: true,
  supports,
  rowStep: () => WORD,
  layout: (weight, scheme) => layout(weight, scheme as IntScheme),
  packer: (weight, scheme, scope) => packer(weight, scheme as IntScheme, scope),
  section,
  recognize: (source) => Promise.try(recognize, source),
  unpack,
  loaders: loadersOf,
};
