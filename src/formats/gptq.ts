/**
 * GPTQ's first version of its checkpoint format, symmetric: what AutoGPTQ and GPTQModel write, and
 * what ExLlama, transformers, vLLM and others read. Read from GPTQModel 7.7. Refuses zero points
 * that differ (version 1 stores them less one, and readers differ on what becomes of 0) and shapes
 * and group sizes that its readers have no kernels for.
 */
import type { Scope } from "../backend.ts";
import type { Format, Packer } from "../format.ts";
import { packBits } from "../ops/pack_bits.ts";
import { type IntScheme, tileOf } from "../scheme.ts";
import { matrixShape, type TensorInfo } from "../tensor.ts";
import { bytesOf, checkFinite, checkRows, halvesOf, moduleOf, narrowed, wordsOf } from "./bytes.ts";
import { putColumns } from "./columns.ts";
import { layout, supports, zeroWords } from "./gptq/layout.ts";
import { loadersOf } from "./gptq/loaders.ts";
import { section } from "./gptq/section.ts";
import { recognize, unpack } from "./gptq/unpack.ts";

function packer(weight: TensorInfo, scheme: IntScheme, scope: Scope): Packer {
  const { name, shape } = weight;
  const [outputs, inputs] = matrixShape(shape);
  const module = moduleOf(name)!;
  const { bits } = scheme;
  const { backend } = scope;
  const [qweight, qzeros, scales] = layout(weight, scheme);
  const [height = 1] = qweight!.shape;
  const [groups = 1, zeroWidth = 1] = qzeros!.shape;
  const codeCells = new Uint32Array(height * outputs);
  const scaleCells = new Uint16Array(groups * outputs);
  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows: outputs, step: 1 });
      using scratch = backend.scope();
      const packed = scratch.alloc("u32", [slice.to - slice.from, height]);
      backend.run(packBits, { codes: tensors.codes!, packed }, { bits });
      const narrow = narrowed(tensors.scale!, "f16", scratch);
      const [codeBytes, scaleBytes] = await backend.read(packed, narrow);
      checkFinite(scaleBytes!, "f16", name);
      putColumns(wordsOf(codeBytes!), slice.from, { cells: codeCells, outputs });
      putColumns(halvesOf(scaleBytes!), slice.from, { cells: scaleCells, outputs });
      return [];
    },
    finish() {
      const pattern = zeroWords(bits);
      const zeros = new Uint32Array(groups * zeroWidth)
        .map((_, i) => pattern[i % zeroWidth % bits]!);
      const [, size] = tileOf(scheme.strategy, shape);
      const indices = new Uint32Array(inputs).map((_, i) => Math.floor(i / size));
      return Promise.resolve([
        { tensor: qweight!.name, offset: 0, bytes: bytesOf(codeCells) },
        { tensor: qzeros!.name, offset: 0, bytes: bytesOf(zeros) },
        { tensor: scales!.name, offset: 0, bytes: bytesOf(scaleCells) },
        { tensor: `${module}.g_idx`, offset: 0, bytes: bytesOf(indices) },
      ]);
    },
  };
}

/** See the head of this file. */
export const gptq: Format = {
  name: "gptq",
  quantMethod: "gptq",
  scaleDType: "f16",
  sectionFile: "quantize_config.json",
  gathers: true,
  supports,
  rowStep: () => 1,
  layout: (weight, scheme) => layout(weight, scheme as IntScheme),
  packer: (weight, scheme, scope) => packer(weight, scheme as IntScheme, scope),
  section,
  recognize: (source) => Promise.try(recognize, source),
  unpack,
  loaders: loadersOf,
};
