/** How GPTQ stores one weight: names, dtypes and shapes; which weights and schemes it holds. */
import type { IntScheme, Scheme, Strategy } from "../../scheme.ts";
import { scaleShape } from "../../scheme.ts";
import { matrixShape, type TensorInfo } from "../../tensor.ts";
import { checkSource, moduleOf } from "../bytes.ts";

/**
 * The widths of the format. GPTQModel stores 5, 6 and 7 bits in a layout of its own, which nothing
 * else reads.
 */
export const BITS: readonly number[] = [2, 3, 4, 8];

/**
 * Group sizes that its readers have kernels for; ExLlama's walk 32 inputs at a time, so no smaller
 * ones.
 */
const GROUPS: readonly number[] = [32, 64, 128, 256, 512, 1024];

/**
 * Whole words hold 32 codes in every width, and the readers' shapes are computed without rounding
 * up.
 */
const STEP = 32;

/** `group_size` as the section says it. */
export function groupSize(strategy: Strategy): number {
  return strategy.kind === "group" ? strategy.size : -1;
}

/** The stored tensors of a weight of [O, I]. */
export function layout({ name, shape }: TensorInfo, scheme: IntScheme): TensorInfo[] {
  const module = moduleOf(name)!;
  const [outputs, inputs] = matrixShape(shape);
  const [, groups] = scaleShape(scheme.strategy, shape);
  const words = (codes: number) => Math.ceil(codes * scheme.bits / 32);
  return [
    { name: `${module}.qweight`, dtype: "i32", shape: [words(inputs), outputs] },
    { name: `${module}.qzeros`, dtype: "i32", shape: [groups, words(outputs)] },
    { name: `${module}.scales`, dtype: scheme.scaleDType, shape: [groups, outputs] },
    { name: `${module}.g_idx`, dtype: "i32", shape: [inputs] },
  ];
}

/** Why a weight cannot be stored so, or `true`. */
export function supports(scheme: Scheme, weight: TensorInfo): true | string {
  if (scheme.kind !== "int") return `gptq holds int weights, not ${scheme.kind}`;
  const { bits, grid, strategy, activations, scaleDType } = scheme;
  if (activations !== "none") {
    return "gptq stores weights alone, and this scheme rounds activations too; compressed-tensors holds it";
  }
  if (!BITS.includes(bits)) {
    return `gptq has widths of ${BITS.join(", ")} bits, not ${bits}; compressed-tensors holds it`;
  }
  if (grid === "affine") {
    return "gptq stores zero points less one, and readers differ on what becomes of 0; " +
      "use awq for affine weights of 4 bits, or compressed-tensors";
  }
  if (strategy.kind !== "group" && strategy.kind !== "channel") {
    return `gptq has a scale per group or channel, not per ${strategy.kind}; use another group size`;
  }
  if (scaleDType !== "f16") return `gptq stores scales in f16, not ${scaleDType}`;
  const source = checkSource("gptq", weight);
  return source === true ? checkShape(scheme, weight) : source;
}

function checkShape({ strategy }: IntScheme, { shape }: TensorInfo): true | string {
  const leave = "leave it alone by a rule, or use compressed-tensors";
  if (shape.length !== 2) return `gptq stores matrices, not ${shape.length} dimensions; ${leave}`;
  const [outputs, inputs] = matrixShape(shape);
  if (outputs % STEP !== 0 || inputs % STEP !== 0) {
    return `gptq packs ${STEP} rows and columns at a time, and it has ${outputs}×${inputs}; ${leave}`;
  }
  if (strategy.kind !== "group") return true;
  const fitting = GROUPS.filter((size) => inputs % size === 0).join(", ");
  if (!GROUPS.includes(strategy.size) || inputs % strategy.size !== 0) {
    return `readers of gptq have no groups of ${strategy.size} in rows of ${inputs}; ` +
      `use ${fitting} or -1, the whole row`;
  }
  return true;
}

/** `bits` words that hold the zero point 2^(b−1), stored less one, 32 times. */
export function zeroWords(bits: number): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(bits);
  const field = 2 ** (bits - 1) - 1;
  for (let at = 0; at < 32 * bits; at++) {
    if (field >> (at % bits) & 1) words[at >> 5]! |= 1 << (at & 31);
  }
  return words;
}
