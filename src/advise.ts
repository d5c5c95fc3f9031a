/**
 * Which quantization suits a machine: recipes that fit its memory and that something there opens,
 * with their exact sizes, and the most tokens a second that its memory allows. Nothing is written.
 */
import type { Hardware, Native, Target } from "./advice/hardware.ts";
import type { DeviceLimits } from "./backend.ts";
import { UnsupportedError } from "./errors.ts";
import type { Verdict } from "./format.ts";
import { plan } from "./plan.ts";
import type { Plan, Walks } from "./plan/planned.ts";
import { recipeFromOptions } from "./recipe.ts";
import { size } from "./size.ts";
import type { TensorSource } from "./source.ts";

/** A recipe that may suit. */
export interface Proposal {
  /** What it is, in words. */
  readonly title: string;
  /** Option names and values of its one rule. */
  readonly options: Readonly<Record<string, string>>;
  readonly plan: Plan;
  /** Tokens a second of one request at most: bandwidth over the bytes of the weights. */
  readonly tokensPerSecond: number;
  /** Bytes of memory that stay for the KV cache and activations. */
  readonly left: number;
  /** Who opens it on this target. */
  readonly loaders: readonly Verdict[];
}

/** What is advised. */
export interface Advice {
  readonly hardware: Hardware;
  /** The best first. */
  readonly proposals: readonly Proposal[];
  /** What was thought of and does not do, and why. */
  readonly refused: readonly { readonly title: string; readonly why: string }[];
}

/** The share of memory that weights may take: the rest is for the KV cache and activations. */
const WEIGHTS = 0.8;

/** Programs that run models on a target. */
const LOADERS: Readonly<Record<Target, readonly string[]>> = {
  server: ["vLLM", "SGLang", "TGI", "transformers"],
  laptop: ["transformers", "llama.cpp", "vLLM"],
  mobile: ["llama.cpp"],
  browser: ["llama.cpp"],
};

/** Group sizes to try, the usual one first: not every row can be cut into 128. */
const GROUPS = ["128", "64", "32"];

interface Candidate {
  readonly title: string;
  readonly scheme: string;
  readonly bits: number;
  readonly grouped?: true | undefined;
  readonly needs?: Native;
}

/** Those of a width from the best for a machine that has it to the one that any has. */
const CANDIDATES: readonly Candidate[] = [
  {
    title: "8-bit floats, activations too: faster products where the machine has them",
    scheme: "FP8_DYNAMIC",
    bits: 8,
    needs: "fp8",
  },
  {
    title: "8-bit integers, activations too: faster products where the machine has them",
    scheme: "W8A8",
    bits: 8,
    needs: "int8",
  },
  { title: "8-bit weights: nearly lossless, half the size", scheme: "W8A16", bits: 8 },
  {
    title: "4-bit weights, calibrated: a quarter of the size",
    scheme: "W4A16",
    bits: 4,
    grouped: true,
  },
  { title: "4-bit weights by NF4: needs no calibration", scheme: "NF4", bits: 4 },
  {
    title: "3-bit weights, calibrated: where 4 bits do not fit",
    scheme: "W3A16",
    bits: 3,
    grouped: true,
  },
];

/**
 * Propose up to three recipes.
 *
 * @param options.memoryBytes Bytes that the machine has; those of `hardware` unless given.
 * @param options.calibration What the plans of calibrated recipes reckon with.
 * @param options.evaluation For plans that are to be tried: what they are measured on.
 * @throws {UnsupportedError} none fits; the sentence has the smallest and why others do not.
 */
export function advise(
  source: TensorSource,
  { hardware, memoryBytes = hardware.memoryBytes, ...walks }: Walks & {
    readonly hardware: Hardware;
    readonly memoryBytes?: number;
    readonly device: DeviceLimits;
  },
): Advice {
  const refused: Advice["refused"][number][] = [];
  const proposals: Proposal[] = [];
  const widths = new Set<number>();
  for (const candidate of CANDIDATES) {
    const { scheme, bits } = candidate;
    // One of 8 bits is enough, and 3 are for what does not fit in 4.
    if (bits === 8 && widths.has(8) || bits === 3 && widths.has(4)) continue;
    const found = consider(candidate, source, { hardware, memoryBytes, ...walks });
    if ("why" in found) refused.push({ title: scheme, ...found });
    else {
      widths.add(bits);
      proposals.push(found);
    }
  }
  if (proposals.length === 0) {
    const reasons = refused.map(({ title, why }) => `${title}: ${why}`).join("; ");
    throw new UnsupportedError(
      `Cannot advise on ${source.label} for ${hardware.name}: nothing fits. ${reasons}. ` +
        "Give more `memory`, other `hardware`, or a smaller model.",
      { what: source.label, reason: "nothing fits" },
    );
  }
  return { hardware, proposals, refused };
}

/** What a candidate makes of the model, or why it does not do. */
function consider(
  { title, scheme, grouped, needs }: Candidate,
  source: TensorSource,
  { hardware, memoryBytes, ...walks }: Walks & {
    readonly hardware: Hardware;
    readonly memoryBytes: number;
    readonly device: DeviceLimits;
  },
): Proposal | { readonly why: string } {
  const { name, target, native, bandwidth } = hardware;
  if (needs && !native.includes(needs)) return { why: `${name} has no ${needs} products` };
  const made = firstPlan(source, { scheme, grouped, ...walks });
  if ("why" in made) return made;
  const { work, options } = made;
  const { totalBytes } = work;
  if (totalBytes > WEIGHTS * memoryBytes) {
    return { why: `${size(totalBytes)} are more than ${WEIGHTS * 100} % of ${size(memoryBytes)}` };
  }
  const loaders = work.loaders.filter(({ name, opens }) =>
    opens !== "no" && LOADERS[target].includes(name)
  );
  if (loaders.length === 0) return { why: `no loader of a ${target} opens it` };
  const left = memoryBytes - totalBytes;
  return { title, options, plan: work, tokensPerSecond: bandwidth / totalBytes, left, loaders };
}

/** The plan with the first group size that the rows can be cut into. */
function firstPlan(
  source: TensorSource,
  { scheme, grouped, ...walks }: Pick<Candidate, "scheme" | "grouped"> & Walks & {
    readonly device: DeviceLimits;
  },
):
  | { readonly work: Plan; readonly options: Proposal["options"] }
  | { readonly why: string } {
  let why = "";
  for (const group of grouped ? GROUPS : [undefined]) {
    const options = { scheme, ...(group === undefined ? {} : { "group-size": group }) };
    try {
      return { work: plan(recipeFromOptions(options), source, walks), options };
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      why = error.message;
    }
  }
  return { why };
}
