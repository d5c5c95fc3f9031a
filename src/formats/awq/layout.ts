/**
 * How AWQ's GEMM layout stores one weight: names, dtypes and shapes; which weights and schemes it
 * holds.
 */
import { type IntScheme, scaleShape, type Scheme, type Strategy } from "../../scheme.ts";
import { matrixShape, type TensorInfo } from "../../tensor.ts";
import { checkSource, moduleOf } from "../bytes.ts";

/** Group sizes that its readers have kernels for. */
const GROUPS: readonly number[] = [32, 64, 128];

/** Codes of a word: neighbouring outputs. */
export const WORD = 8;

/** `group_size` as the section says it; −1 is the whole row. */
export function groupSize(strategy: Strategy): number {
  return strategy.kind === "group" ? strategy.size : -1;
}

/** The stored tensors of a weight of [O, I]. */
export function layout({ name, shape }: TensorInfo, scheme: IntScheme): TensorInfo[] {
  const module = moduleOf(name)!;
  const [outputs, inputs] = matrixShape(shape);
  const [, groups] = scaleShape(scheme.strategy, shape);
  const words = Math.ceil(outputs / WORD);
  return [
    { name: `${module}.qweight`, dtype: "i32", shape: [inputs, words] },
    { name: `${module}.qzeros`, dtype: "i32", shape: [groups, words] },
    { name: `${module}.scales`, dtype: scheme.scaleDType, shape: [groups, outputs] },
  ];
}

/** Why a weight cannot be stored so, or `true`. */
export function supports(scheme: Scheme, weight: TensorInfo): true | string {
  if (scheme.kind !== "int") return `awq holds int weights, not ${scheme.kind}`;
  const { bits, strategy, activations, scaleDType } = scheme;
  if (activations !== "none") {
    return "awq stores weights alone, and this scheme rounds activations too; compressed-tensors holds it";
  }
  if (bits !== 4) return `awq has 4 bits, not ${bits}; gptq or compressed-tensors hold others`;
  if (strategy.kind !== "group") {
    // GPTQModel 7.7 fails with whole rows on a CPU, TGI everywhere.
    const sizes = GROUPS.join(", ");
    return `readers of awq want groups of ${sizes}, not a scale per ${strategy.kind}; ` +
      "use another group size, or compressed-tensors";
  }
  if (scaleDType !== "f16") return `awq stores scales in f16, not ${scaleDType}`;
  const source = checkSource("awq", weight);
  return source === true ? checkShape(strategy.size, weight) : source;
}

function checkShape(size: number, { name, shape }: TensorInfo): true | string {
  const leave = "leave it alone by a rule, or use compressed-tensors";
  if (name === "lm_head.weight") {
    return `readers of awq have no quantized output head; ${leave}`;
  }
  if (shape.length !== 2) return `awq stores matrices, not ${shape.length} dimensions; ${leave}`;
  const [outputs, inputs] = matrixShape(shape);
  // Kernels take 32 inputs at a time.
  if (outputs % WORD !== 0 || inputs % 32 !== 0) {
    return `awq packs ${WORD} rows and its readers take 32 columns at a time, and it has ${outputs}×${inputs}; ${leave}`;
  }
  if (!GROUPS.includes(size) || inputs % size !== 0) {
    const fitting = GROUPS.filter((size) => inputs % size === 0).join(", ");
    return `readers of awq have no groups of ${size} in rows of ${inputs}; use ${fitting}`;
  }
  return true;
}
