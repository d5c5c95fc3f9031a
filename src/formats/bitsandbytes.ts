/**
 * bitsandbytes' checkpoints: NF4 and FP4 with nested statistics or without, and LLM.int8(). Read
 * from bitsandbytes 0.50's QuantState.as_dict, Linear4bit and Linear8bitLt. Refuses a checkpoint of
 * both 4-bit and 8-bit weights: no section can say it.
 */
import type { Scope } from "../backend.ts";
import { DYNAMIC_MAP, FP4_TABLE, NF4_TABLE } from "../ops/codebook.ts";
import type { Format, Packer, Piece } from "../format.ts";
import { quantizeDynamic8 } from "../ops/quantize_dynamic8.ts";
import { blockRowStep, type CodebookScheme } from "../scheme.ts";
import { matrixShape, type TensorInfo } from "../tensor.ts";
import {
  blockCount,
  isCodebook,
  isQuantizable,
  layout,
  NESTED_BLOCK,
} from "./bitsandbytes/layout.ts";
import { quantStateBytes } from "./bitsandbytes/quant_state.ts";
import { loadersOf } from "./bitsandbytes/loaders.ts";
import { section } from "./bitsandbytes/section.ts";
import { recognize, unpack } from "./bitsandbytes/unpack.ts";
import {
  bytesOf,
  checkFinite,
  checkFloatInputs,
  checkRows,
  checkSource,
  floats,
  moduleOf,
} from "./bytes.ts";

const TABLES = { nf4: NF4_TABLE, fp4: FP4_TABLE };

/**
 * `absmax.mean()`: summed in float64 here, so the f32 nearest to the true mean. torch sums in f32,
 * in an order that depends on the vector width of the machine; where its result is another f32,
 * nested statistics differ from its in the last place, and codes at ties.
 */
function meanOf(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return Math.fround(sum / values.length);
}

function packCodebook(
  weight: TensorInfo,
  scheme: CodebookScheme,
  scope: Scope,
): Packer {
  const { name, shape } = weight;
  const [rows, columns] = matrixShape(shape);
  const step = blockRowStep(scheme.block, shape);
  const all = new Float32Array(scheme.doubleQuant ? blockCount(scheme, shape) : 0);
  const { backend } = scope;

  /** Codes of all absmax values, once they are known; nested statistics. */
  async function nest(): Promise<{ offset: number; pieces: Piece[] }> {
    const offset = meanOf(all);
    using scratch = backend.scope();
    const x = scratch.alloc("f32", [all.length]);
    const table = scratch.alloc("f32", [DYNAMIC_MAP.length]);
    const codes = scratch.alloc("u8", [all.length]);
    const absmax = scratch.alloc("f32", [Math.ceil(all.length / NESTED_BLOCK)]);
    backend.write(x, bytesOf(all));
    backend.write(table, bytesOf(DYNAMIC_MAP));
    backend.run(quantizeDynamic8, { x, table, codes, absmax }, { block: NESTED_BLOCK, offset });
    const [codeBytes, absmaxBytes] = await backend.read(codes, absmax);
    return {
      offset,
      pieces: [
        { tensor: `${name}.absmax`, offset: 0, bytes: codeBytes! },
        { tensor: `${name}.nested_absmax`, offset: 0, bytes: absmaxBytes! },
        { tensor: `${name}.nested_quant_map`, offset: 0, bytes: bytesOf(DYNAMIC_MAP) },
      ],
    };
  }

  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows, step });
      const first = slice.from * columns;
      const [codes, absmaxBytes] = await backend.read(tensors.codes!, tensors.absmax!);
      checkFinite(absmaxBytes!, "f32", name);
      const absmax = floats(absmaxBytes!);
      const pieces: Piece[] = [{ tensor: name, offset: first / 2, bytes: codes! }];
      if (scheme.doubleQuant) {
        all.set(absmax, first / scheme.block);
      } else {
        pieces.push({
          tensor: `${name}.absmax`,
          offset: first / scheme.block * 4,
          bytes: bytesOf(absmax),
        });
      }
      return pieces;
    },
    async finish() {
      const nested = scheme.doubleQuant ? await nest() : { offset: undefined, pieces: [] };
      return [
        ...nested.pieces,
        { tensor: `${name}.quant_map`, offset: 0, bytes: bytesOf(TABLES[scheme.kind]) },
        {
          tensor: `${name}.quant_state.bitsandbytes__${scheme.kind}`,
          offset: 0,
          bytes: quantStateBytes(scheme, weight, nested.offset),
        },
      ];
    },
  };
}

function packInt8(
  { name, shape }: TensorInfo,
  scope: Scope,
): Packer {
  const [rows, columns] = matrixShape(shape);
  const module = moduleOf(name)!;
  return {
    async add({ tensors }, slice) {
      checkRows(slice, { name, rows, step: 1 });
      const [codes, absmax] = await scope.backend.read(tensors.codes!, tensors.absmax!);
      checkFinite(absmax!, "f32", name, {
        range: "f16, which LLM.int8() rounds weights to",
      });
      return [
        { tensor: name, offset: slice.from * columns, bytes: codes! },
        { tensor: `${module}.SCB`, offset: slice.from * 4, bytes: absmax! },
      ];
    },
    // 0: rows in order, the only layout that is still read
    finish() {
      return Promise.resolve([
        { tensor: `${module}.weight_format`, offset: 0, bytes: new Uint8Array(1) },
      ]);
    },
  };
}

/** See the head of this file. */
export const bitsandbytes: Format = {
  name: "bitsandbytes",
  quantMethod: "bitsandbytes",
  // transformers 5.23 leaves them in the dtype they have, and a product of two dtypes raises.
  castsRest: true,
  supports(scheme, weight) {
    if (!isQuantizable(scheme)) {
      return `bitsandbytes holds nf4, fp4 and LLM.int8() weights, not ${scheme.kind}`;
    }
    const inputs = checkFloatInputs("bitsandbytes", scheme);
    return inputs === true ? checkSource("bitsandbytes", weight) : inputs;
  },
  rowStep(scheme, { shape }) {
    return isCodebook(scheme) ? blockRowStep(scheme.block, shape) : 1;
  },
  layout,
  packer(weight, scheme, scope) {
    return isCodebook(scheme) ? packCodebook(weight, scheme, scope) : packInt8(weight, scope);
  },
  section,
  recognize,
  unpack,
  loaders: loadersOf,
};
