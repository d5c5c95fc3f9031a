/**
 * Who opens compressed-tensors' checkpoints, and why not (the loaders' own documentation and
 * sources, read in 2026).
 */
import type { Content, Verdict } from "../../format.ts";
import type { IntScheme, Scheme } from "../../scheme.ts";
import { architectureOf, EXPERT, type Storage } from "../architectures.ts";
import { quantizedOf, type Reader, verdictsOf } from "../verdicts.ts";
import {
  hasInputScale,
  isStored,
  packedBits,
  packedZeroBits,
  type Stored,
  storedFormat,
  zeroPoints,
} from "./layout.ts";
import { packedRows } from "./zero_points.ts";

/** What of a checkpoint its loaders look at. */
interface Facts {
  readonly schemes: readonly Stored[];
  /** The schemes of experts that are stored one by one. */
  readonly experts: readonly Stored[];
  /** Weights are stored in several of the library's formats. */
  readonly mixed: boolean;
  /** A weight whose packed zero points are one row of words. */
  readonly shallow: { readonly name: string; readonly rows: number } | undefined;
  /** Whether transformers asks for weights before packed ones are there. */
  readonly early: boolean;
}

/** Group sizes of vLLM's weight-only kernels. */
const MARLIN_GROUPS: readonly number[] = [32, 64, 128];

function refusedByVllm(scheme: Stored): string | undefined {
  const { strategy } = scheme;
  if (scheme.kind === "fp8") {
    return strategy.kind === "group" ? "fp8 scales by group are not read" : undefined;
  }
  if (strategy.kind === "block") return "int weights with 2-D blocks are not read";
  const hybrid = refusedHybrid(scheme);
  if (hybrid !== undefined) return hybrid;
  if (storedFormat(scheme) === "int-quantized") {
    const name = `W${scheme.bits}A8`;
    if (scheme.grid === "affine") return `${name} weights must be symmetric`;
    const fit = scheme.bits === 8 ? ["tensor", "channel"] : ["channel", "group"];
    return fit.includes(strategy.kind)
      ? undefined
      : `${name} scales must be per ${fit.join(" or ")}`;
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

/** Int weights whose input is rounded, of which vLLM has few kernels. */
function refusedHybrid({ bits, grid, strategy, activations }: IntScheme): string | undefined {
  if (activations === "none") return undefined;
  if (!activations.startsWith("fp8")) {
    return bits === 4 || bits === 8
      ? undefined
      : `${bits}-bit weights are not read where activations are int8`;
  }
  const fits = bits === 4 && grid !== "affine" && strategy.kind === "group" &&
    strategy.size === 128 && activations === "fp8";
  return fits
    ? undefined
    : "int weights with fp8 activations are read in 4 bits, symmetric, in groups of 128 (W4AFP8)";
}

/** Weights of 4 bits with rounded inputs, which other loaders than vLLM have no layers for. */
function isHybrid(scheme: Stored): boolean {
  return scheme.kind === "int" && scheme.activations !== "none" &&
    (scheme.bits !== 8 || scheme.activations.startsWith("fp8"));
}

const HYBRID = "its layers have no int weights of these widths with rounded activations";

/** vLLM fuses the experts of a layer, and reads less of them than of single layers. */
function expertsRefusedByVllm(scheme: Stored): string | undefined {
  if (scheme.kind === "fp8" && scheme.activations === "none") {
    return "fp8 experts are read where activations are rounded too (FP8_DYNAMIC)";
  }
  return scheme.kind === "int" && scheme.grid === "affine"
    ? "experts must be symmetric"
    : undefined;
}

const MIXED = "checkpoints of mixed formats are not read";

const READERS: readonly Reader<Facts>[] = [
  {
    name: "transformers",
    why: "with compressed-tensors installed; decompresses on GPU and CPU",
    // Seen with compressed-tensors 0.20, which takes such words for a column.
    refuses: ({ shallow }) => [
      shallow && `compressed-tensors 0.20 cannot unpack the zero points of "${shallow.name}", ` +
        `which has ${shallow.rows} outputs`,
    ],
    caveat({ schemes, early }) {
      const how = "with quantization_config=CompressedTensorsConfig(dequantize=True): without it, ";
      // Seen with transformers 5.23 and compressed-tensors 0.20, whose compressor does not pack the
      // placeholder (on the meta device) that the stored zero points are loaded into;
      // dequantize=True takes a way without placeholders.
      if (schemes.some((scheme) => zeroPoints(scheme) === "packed")) {
        return `${how}compressed-tensors 0.20 expects zero points that are not packed`;
      }
      return early && schemes.some((scheme) => packedBits(scheme) !== undefined)
        ? `${how}transformers asks layers for their weights before they are unpacked`
        : undefined;
    },
  },
  {
    name: "vLLM",
    why: "natively",
    refuses: ({ schemes, experts }) => [
      ...schemes.map(refusedByVllm),
      ...experts.map(expertsRefusedByVllm),
    ],
    caveat: ({ schemes }) =>
      schemes.some((scheme) => isHybrid(scheme) && scheme.activations.startsWith("fp8"))
        ? "on GPUs of the Hopper generation, which its W4AFP8 kernel is for"
        : schemes.some(isHybrid)
        ? "on CPUs: its W4A8 kernel is for Arm"
        : undefined,
    experts: true,
  },
  {
    name: "SGLang",
    why: "natively",
    refuses: ({ schemes, mixed }) => [
      ...schemes.map((scheme) =>
        isHybrid(scheme)
          ? HYBRID
          : scheme.kind === "int" && scheme.bits !== 4 && scheme.bits !== 8
          ? `${scheme.bits}-bit weights are not read`
          : refusedByVllm(scheme)
      ),
      mixed && MIXED,
    ],
  },
  {
    name: "TGI",
    why: "its WNA16, W8A8 and fp8 layers",
    refuses: ({ schemes, mixed }) => [
      ...schemes.map((scheme) =>
        isHybrid(scheme)
          ? HYBRID
          : scheme.kind === "fp8" && scheme.strategy.kind === "block"
          ? "fp8 scales must be per tensor or channel"
          : scheme.kind === "int" && scheme.bits !== 4 && scheme.bits !== 8
          ? `${scheme.bits}-bit weights are not read`
          : refusedByVllm(scheme)
      ),
      mixed && MIXED,
    ],
    caveat: ({ schemes }) =>
      schemes.some((scheme) => scheme.kind === "int" && hasInputScale(scheme))
        ? "its W8A8 layer, which rounds activations token by token all the same"
        : undefined,
  },
  {
    name: "llama.cpp",
    why: "its converter dequantizes to GGUF",
    refuses: ({ schemes, mixed }) => [...schemes.map(refusedByLlamaCpp), mixed && MIXED],
    experts: true,
  },
  { name: "ExLlama", why: "", refuses: () => ["it reads GPTQ and EXL files"] },
];

function refusedByLlamaCpp(scheme: Stored): string | undefined {
  const { kind } = scheme.strategy;
  if (isHybrid(scheme)) return "nobody has tried its converter with int weights and rounded inputs";
  if (hasInputScale(scheme)) return "its converter finds no place for scales of inputs";
  if (storedFormat(scheme) === "pack-quantized") {
    return kind === "group" ? undefined : "packed weights must have scales by group";
  }
  return kind === "channel" || kind === "block" ? undefined : "scales must be per channel or block";
}

function storageOf(scheme: Scheme): Storage {
  if (scheme.kind !== "int") return "fp8";
  if (storedFormat(scheme) === "int-quantized") return "int8";
  return scheme.grid === "affine" ? "affine" : "packed";
}

/** Who opens a checkpoint. */
export function loadersOf(content: Content): Verdict[] {
  const stored = quantizedOf(content).flatMap(({ name, shape, scheme }) =>
    isStored(scheme) ? [{ name, rows: shape[0]!, scheme }] : []
  );
  const schemes = stored.map(({ scheme }) => scheme);
  const facts: Facts = {
    schemes,
    experts: stored.flatMap(({ name, scheme }) => EXPERT.test(name) ? scheme : []),
    mixed: new Set(schemes.map(storedFormat)).size > 1,
    shallow: stored.find(({ rows, scheme }) => {
      const bits = packedZeroBits(scheme);
      return bits !== undefined && packedRows(rows, bits) === 1;
    }),
    early: architectureOf(content)?.early ?? false,
  };
  return verdictsOf(READERS, content, { facts, storageOf });
}
