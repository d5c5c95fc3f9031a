/** Who opens bitsandbytes' checkpoints, and why not (the loaders' own sources, read in 2026). */
import type { Content, Verdict } from "../../format.ts";
import { skippedByMistake } from "../skip_list.ts";
import { quantizedOf, type Reader, verdictsOf } from "../verdicts.ts";
import { isCodebook } from "./layout.ts";

/**
 * Seen with bitsandbytes 0.50.2: its CPU dequantization starts a new block with every row, its
 * quantization does not.
 */
function crossed(content: Content): string | undefined {
  const found = quantizedOf(content).find(({ scheme, shape }) =>
    isCodebook(scheme) && shape[1]! % scheme.block !== 0
  );
  return found && `blocks cross the rows of "${found.name}", and bitsandbytes 0.50's CPU code ` +
      "misreads such weights";
}

/**
 * Seen with bitsandbytes 0.50.2 on a CPU with AVX-512: it packs 4-bit weights anew, 32 outputs at a
 * time.
 */
function ragged(content: Content): string | undefined {
  const found = quantizedOf(content).find(({ scheme, shape }) =>
    isCodebook(scheme) && shape[0]! % 32 !== 0
  );
  return found && `"${found.name}" has ${found.shape[0]} outputs, and bitsandbytes 0.50's CPU ` +
      "code takes 32 at a time";
}

function is4Bit(content: Content): boolean {
  return quantizedOf(content).some(({ scheme }) => isCodebook(scheme));
}

function no(name: string, why: string): Reader<Content> {
  return { name, why, refuses: () => [why] };
}

const READERS: readonly Reader<Content>[] = [
  {
    name: "transformers",
    why: "with bitsandbytes, on GPU and CPU",
    refuses: (content) => [skippedByMistake(content)],
    caveat(content) {
      const reasons = [crossed(content), ragged(content)].filter((text) => text !== undefined);
      return reasons.length > 0 ? `on GPU only: ${reasons.join("; ")}` : undefined;
    },
  },
  {
    name: "vLLM",
    why: "finds weights by their quant_state or SCB; bitsandbytes 0.46.1 on",
    refuses: () => [],
  },
  {
    name: "SGLang",
    why: "basic support of prequantized 4-bit weights",
    refuses: (content) => [
      !is4Bit(content) && "only parts of its loader read prequantized int8",
    ],
  },
  no("TGI", "it quantizes with bitsandbytes itself and reads no results"),
  no("llama.cpp", "its converter does not read bitsandbytes"),
  no("ExLlama", "it reads GPTQ and EXL files"),
];

/** Who opens a checkpoint. */
export function loadersOf(content: Content): Verdict[] {
  return verdictsOf(READERS, content, {
    facts: content,
    storageOf: (scheme) => isCodebook(scheme) ? "4-bit" : "LLM.int8",
  });
}
