/** Who opens compressed-tensors' checkpoints, and why not (the loaders' own documentation and sources, read in 2026). */
import type { Loader, PlannedWeight } from "../../format.ts";
import type { Scheme } from "../../scheme.ts";
import { hasInputScale, isStored, type Stored, storedFormat, zeroPoints } from "./layout.ts";

/** A loader, and why it does not take a scheme, if it does not. */
interface Reader {
  readonly name: string;
  readonly why: string;
  refuses(scheme: Stored): string | undefined;
  /** What a user must know to open weights of a scheme that is taken. */
  caveat?(scheme: Stored): string | undefined;
}

/** Group sizes of vLLM's weight-only kernels. */
const MARLIN_GROUPS: readonly number[] = [32, 64, 128];

function refusedByVllm(scheme: Stored): string | undefined {
  const { strategy } = scheme;
  if (scheme.kind === "fp8") {
    return strategy.kind === "group" ? "fp8 scales by group are not read" : undefined;
  }
  if (strategy.kind === "block") return "int weights with 2-D blocks are not read";
  if (storedFormat(scheme) === "int-quantized") {
    if (scheme.grid === "affine") return "W8A8 weights must be symmetric";
    return strategy.kind === "group" ? "W8A8 scales must be per tensor or channel" : undefined;
  }
  if (strategy.kind === "tensor") return "packed weights must have scales by group or channel";
  if (strategy.kind === "group" && !MARLIN_GROUPS.includes(strategy.size)) {
    return `its kernels have groups of ${MARLIN_GROUPS.join(", ")}, not ${strategy.size}`;
  }
  if (scheme.bits !== 4 && scheme.bits !== 8) {
    return scheme.grid === "affine"
      ? `zero points are read for 4 and 8 bits, not ${scheme.bits}`
      : `${scheme.bits}-bit weights are read only by releases since the middle of 2026`;
  }
  return undefined;
}

const READERS: readonly Reader[] = [
  {
    name: "transformers",
    why: "with compressed-tensors installed; decompresses on GPU and CPU",
    refuses: () => undefined,
    // Seen with transformers 5.23 and compressed-tensors 0.20, whose compressor does not pack the placeholder (on the meta
    // device) that the stored zero points are loaded into; dequantize=True takes a way without placeholders.
    caveat: (scheme) =>
      zeroPoints(scheme) === "packed"
        ? "with quantization_config=CompressedTensorsConfig(dequantize=True): without it, " +
          "compressed-tensors 0.20 expects zero points that are not packed"
        : undefined,
  },
  { name: "vLLM", why: "natively", refuses: refusedByVllm },
  {
    name: "SGLang",
    why: "natively",
    refuses: (scheme) =>
      scheme.kind === "int" && scheme.bits !== 4 && scheme.bits !== 8
        ? `${scheme.bits}-bit weights are not read`
        : refusedByVllm(scheme),
  },
  {
    name: "TGI",
    why: "its WNA16, W8A8 and fp8 layers",
    refuses: (scheme) =>
      scheme.kind === "fp8" && scheme.strategy.kind === "block"
        ? "fp8 scales must be per tensor or channel"
        : scheme.kind === "int" && scheme.bits !== 4 && scheme.bits !== 8
        ? `${scheme.bits}-bit weights are not read`
        : refusedByVllm(scheme),
    caveat: (scheme) =>
      scheme.kind === "int" && hasInputScale(scheme)
        ? "its W8A8 layer, which rounds activations token by token all the same"
        : undefined,
  },
  {
    name: "llama.cpp",
    why: "its converter dequantizes to GGUF",
    refuses: (scheme) => {
      const { kind } = scheme.strategy;
      if (hasInputScale(scheme)) return "its converter finds no place for scales of inputs";
      if (storedFormat(scheme) === "pack-quantized") {
        return kind === "group" ? undefined : "packed weights must have scales by group";
      }
      return kind === "channel" || kind === "block"
        ? undefined
        : "scales must be per channel or block";
    },
  },
  { name: "ExLlama", why: "", refuses: () => "it reads GPTQ and EXL files" },
];

/** Only these open a checkpoint in which formats are mixed. */
const READS_MIXED: readonly string[] = ["transformers", "vLLM"];

/** Who opens a checkpoint with these schemes and weights. */
export function loadersOf(
  schemes: readonly Scheme[],
  weights: readonly PlannedWeight[] = [],
): Loader[] {
  const stored = schemes.filter(isStored);
  const formats = new Set(stored.map(storedFormat));
  const odd = weights.find(({ scheme, shape }) => scheme && shape.length !== 2);
  return READERS.map(({ name, why, refuses, caveat }) => {
    const reasons = stored.map(refuses).filter((reason) => reason !== undefined);
    if (odd) {
      reasons.push(`"${odd.name}" has ${odd.shape.length} dimensions; loaders read matrices`);
    }
    if (formats.size > 1 && !READS_MIXED.includes(name)) {
      reasons.push("checkpoints of mixed formats are not read");
    }
    const known = stored.map((scheme) => caveat?.(scheme)).find((text) => text !== undefined);
    return reasons.length === 0
      ? { name, takes: true, why: known ?? why }
      : { name, takes: false, why: [...new Set(reasons)].join("; ") };
  });
}
