/** Who opens AWQ's checkpoints, and why not (the loaders' own sources, read in 2026). */
import type { Content, Verdict } from "../../format.ts";
import { leftAlone } from "../layer_patterns.ts";
import { skippedByMistake } from "../skip_list.ts";
import { quantizedOf, type Reader, verdictsOf } from "../verdicts.ts";

/** Kernels take 64 outputs at a time. */
function ragged(content: Content): string | undefined {
  const found = quantizedOf(content).find(({ shape }) => shape[0]! % 64 !== 0);
  return found &&
    `its kernels take 64 outputs at a time, and "${found.name}" has ${found.shape[0]}`;
}

function no(name: string, why: string): Reader<Content> {
  return { name, why, refuses: () => [why] };
}

const READERS: readonly Reader<Content>[] = [
  {
    name: "transformers",
    why: "with gptqmodel (its version 4 with autoawq), on GPU, in float16, and CPU",
    refuses: (content) => [skippedByMistake(content)],
  },
  { name: "GPTQModel", why: "natively, on GPU and CPU", refuses: () => [] },
  { name: "vLLM", why: "natively", refuses: (content) => [ragged(content)] },
  { name: "SGLang", why: "natively", refuses: (content) => [ragged(content)] },
  {
    name: "TGI",
    why: "its AWQ layers",
    refuses: (content) => [
      ragged(content),
      leftAlone(content.weights).some(({ block }) => block) &&
      "it wants every layer of the blocks quantized",
    ],
  },
  no("llama.cpp", "its converter does not read AWQ"),
  no("ExLlama", "it reads GPTQ and EXL files"),
];

/** Who opens a checkpoint; all schemes that the format holds are alike to its loaders. */
export function loadersOf(content: Content): Verdict[] {
  return verdictsOf(READERS, content, { facts: content, storageOf: () => "awq" });
}
