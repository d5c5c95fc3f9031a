/** Who opens GPTQ's checkpoints, and why not (the loaders' own sources, read in 2026). */
import type { Content, Verdict } from "../../format.ts";
import type { IntScheme } from "../../scheme.ts";
import { leftAlone } from "../layer_patterns.ts";
import { quantizedOf, type Reader, verdictsOf } from "../verdicts.ts";
import { groupSize } from "./layout.ts";
import { kindsOf, widthKeys } from "./section.ts";

/** What of a checkpoint its loaders look at. */
interface Facts {
  readonly schemes: readonly IntScheme[];
  /** Layers differ in width or group size. */
  readonly mixed: boolean;
  /** The output head is quantized. */
  readonly head: boolean;
  /** A layer of the blocks is left as it was. */
  readonly left: boolean;
}

/** Group sizes of the Marlin kernels. */
const MARLIN_GROUPS: readonly number[] = [-1, 32, 64, 128];

function factsOf(content: Content): Facts {
  const quantized = quantizedOf(content);
  const schemes = quantized.map(({ scheme }) => scheme).filter((scheme) => scheme.kind === "int");
  return {
    schemes,
    mixed: kindsOf(schemes, widthKeys).length > 1,
    head: quantized.some(({ name }) => name === "lm_head.weight"),
    left: leftAlone(content.weights).some(({ block }) => block),
  };
}

function isMarlin({ bits, strategy }: IntScheme): boolean {
  return (bits === 4 || bits === 8) && MARLIN_GROUPS.includes(groupSize(strategy));
}

/** Seen with GPTQModel 7.7: the kernel it chooses for them on a CPU fails at the first product. */
function onlyOnGpu({ schemes }: Facts): string | undefined {
  const found = schemes.some(({ bits, strategy }) => bits === 4 && strategy.kind === "channel");
  return found ? "on GPU only: GPTQModel 7.7 has no whole rows of 4 bits on a CPU" : undefined;
}

const READERS: readonly Reader<Facts>[] = [
  {
    name: "transformers",
    why: "with optimum and gptqmodel, on GPU and CPU",
    refuses: ({ mixed, head }) => [
      mixed && "it reads one width and group size for all layers",
      head && "it leaves the output head as it is",
    ],
    caveat: onlyOnGpu,
  },
  {
    name: "GPTQModel",
    why: "natively, on GPU and CPU",
    refuses: () => [],
    caveat: onlyOnGpu,
  },
  {
    name: "vLLM",
    why: "natively",
    refuses: ({ schemes }) => [
      schemes.some((scheme) => !isMarlin(scheme)) &&
      `it reads 4 and 8 bits in groups of ${MARLIN_GROUPS.slice(1).join(", ")} or whole rows; ` +
        "only older releases read others, in float16",
    ],
  },
  {
    name: "SGLang",
    why: "natively",
    refuses: () => [],
    caveat: ({ schemes }) =>
      schemes.every(isMarlin) ? undefined : "with --dtype float16, which its ExLlama kernel wants",
  },
  {
    name: "TGI",
    why: "its GPTQ layers",
    refuses: ({ schemes, mixed, head, left }) => [
      schemes.some(({ bits }) => bits === 2 || bits === 3) && "2 and 3 bits are not read",
      mixed && "it reads one width and group size for all layers",
      head && "it leaves the output head as it is",
      left && "it wants every layer of the blocks quantized",
    ],
  },
  {
    name: "llama.cpp",
    why: "its converter dequantizes to GGUF",
    refuses: ({ schemes }) => [
      schemes.some(({ bits }) => bits === 3) && "3 bits are not read",
      new Set(schemes.map(({ bits }) => bits)).size > 1 && "it reads one width for all layers",
    ],
  },
  {
    name: "ExLlama",
    why: "versions 1 and 2; version 3 reads EXL3",
    refuses: ({ schemes }) => [schemes.some(({ bits }) => bits !== 4) && "it reads 4 bits"],
  },
];

/** Who opens a checkpoint. */
export function loadersOf(content: Content): Verdict[] {
  return verdictsOf(READERS, content, { facts: factsOf(content), storageOf: () => "gptq" });
}
