/** Who opens AWQ's checkpoints, and why not (the loaders' own sources, read in 2026). */
import type { Loader, PlannedWeight } from "../../format.ts";
import type { Scheme } from "../../scheme.ts";
import { leftAlone } from "../layer_patterns.ts";

interface Reader {
  readonly name: string;
  readonly why: string;
  /** The outputs of a layer must be a multiple of this. */
  readonly outputs?: number;
  /** Why it does not take layers of the blocks that are left as they were. */
  readonly left?: string;
}

const READERS: readonly Reader[] = [
  {
    name: "transformers",
    why: "with gptqmodel (its version 4 with autoawq), on GPU, in float16, and CPU",
  },
  { name: "GPTQModel", why: "natively, on GPU and CPU" },
  { name: "vLLM", why: "natively", outputs: 64 },
  { name: "SGLang", why: "natively", outputs: 64 },
  {
    name: "TGI",
    why: "its AWQ layers",
    outputs: 64,
    left: "it wants every layer of the blocks quantized",
  },
];

const OTHERS: readonly Loader[] = [
  { name: "llama.cpp", takes: false, why: "its converter does not read AWQ" },
  { name: "ExLlama", takes: false, why: "it reads GPTQ and EXL files" },
];

/** Who opens a checkpoint with these weights; all schemes that the format holds are alike to its loaders. */
export function loadersOf(
  _schemes: readonly Scheme[],
  weights: readonly PlannedWeight[] = [],
): Loader[] {
  const isLeft = leftAlone(weights).some(({ block }) => block);
  const odd = weights.find(({ scheme, linear }) => scheme && !linear);
  const read = READERS.map(({ name, why, outputs = 1, left }): Loader => {
    const ragged = weights.find(({ scheme, shape }) => scheme && shape[0]! % outputs !== 0);
    const reasons = [
      odd && `"${odd.name}" is no linear layer, and no others are read quantized`,
      ragged &&
      `its kernels take ${outputs} outputs at a time, and "${ragged.name}" has ${ragged.shape[0]}`,
      isLeft && left,
    ].filter((reason) => typeof reason === "string");
    return reasons.length === 0
      ? { name, takes: true, why }
      : { name, takes: false, why: reasons.join("; ") };
  });
  return [...read, ...OTHERS];
}
