/**
 * AWQ's section of config.json, both ways. It says one group size for all layers: two are refused.
 * Refuses to read other widths and packings than GEMM's of 4 bits.
 */
import { CheckpointError, UnsupportedError } from "../../errors.ts";
import type { Content } from "../../format.ts";
import type { IntScheme, ScaleDType } from "../../scheme.ts";
import { quantizationSection } from "../config_json.ts";
import { leftAlone, patternsOf } from "../layer_patterns.ts";
import { skippedModules } from "../skip_list.ts";
import { groupSize } from "./layout.ts";

/** The JSON text of `quantization_config`; undefined when no weight is quantized. */
export function section(content: Content): string | undefined {
  const { weights } = content;
  const sizes = new Set(
    weights.flatMap(({ scheme }) => scheme?.kind === "int" ? groupSize(scheme.strategy) : []),
  );
  if (sizes.size === 0) return undefined;
  if (sizes.size > 1) {
    const reason = `awq's section says one group size for all weights, not ${
      [...sizes].join(" and ")
    }; gptq and compressed-tensors say several`;
    throw new UnsupportedError(`Cannot write these schemes into one checkpoint: ${reason}.`, {
      what: "awq",
      reason,
    });
  }
  const left = leftAlone(weights);
  const dynamic = patternsOf(left, weights).map((pattern) => [`-:${pattern}`, {}]);
  return JSON.stringify({
    quant_method: "awq",
    bits: 4,
    group_size: [...sizes][0],
    // Symmetric weights have zero points too, all of them 8: no reader takes a checkpoint without.
    zero_point: true,
    version: "gemm",
    modules_to_not_convert: skippedModules(content),
    // GPTQModel passes over the list and fills such layers with noise; this it heeds.
    ...(dynamic.length > 0 ? { dynamic: Object.fromEntries(dynamic) } : {}),
  });
}

function unreadable(what: string): never {
  throw new UnsupportedError(`Cannot read this AWQ checkpoint: ${what}.`, {
    what: "awq",
    reason: what,
  });
}

/**
 * What a checkpoint's section says of its weights, or undefined when it is not of AWQ.
 *
 * @throws {CheckpointError} the section is malformed.
 * @throws {UnsupportedError} it asks for something Sluice does not read.
 */
export function readSection(
  config: Readonly<Record<string, unknown>>,
): ((scaleDType: ScaleDType) => IntScheme) | undefined {
  const found = quantizationSection(config);
  if (found?.quant_method !== "awq") return undefined;
  // AutoAWQ's own file says w_bit and q_group_size.
  const bits = found.bits ?? found.w_bit ?? 4;
  const size = found.group_size ?? found.q_group_size ?? 128;
  const version = found.version ?? found.format ?? "gemm";
  if (bits !== 4) unreadable(`it has ${JSON.stringify(bits)} bits, not 4`);
  if (typeof version !== "string" || version.toLowerCase() !== "gemm") {
    unreadable(`its version is ${JSON.stringify(version)}, not "gemm"`);
  }
  if (found.zero_point === false) unreadable("it has no zero points (zero_point: false)");
  if (typeof size !== "number" || size !== -1 && !(Number.isSafeInteger(size) && size > 0)) {
    throw new CheckpointError(
      `Cannot read config.json: group_size is ${JSON.stringify(size)}, not -1 or a group's size`,
      { file: "config.json" },
    );
  }
  return (scaleDType) => ({
    kind: "int",
    bits: 4,
    grid: "affine",
    strategy: size === -1 ? { kind: "channel" } : { kind: "group", size },
    scaleDType,
    activations: "none",
  });
}
