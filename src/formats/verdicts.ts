/**
 * Who opens a checkpoint: what a loader refuses of its weights, then what is known of it with this
 * architecture.
 */
import type { Content, PlannedWeight, Verdict } from "../format.ts";
import type { Scheme } from "../scheme.ts";
import { leftAlone, towerOf } from "./layer_patterns.ts";
import { architectureOf, classOf, EXPERT, type Storage } from "./architectures.ts";

/** A loader of a format, by facts that the format takes from a checkpoint. */
export interface Reader<Facts> {
  readonly name: string;
  /** How it opens what it opens. */
  readonly why: string;
  /** Every reason why it does not open these weights, whatever the architecture. */
  refuses(facts: Facts): readonly (string | false | undefined)[];
  /** What a user must know to open what is opened. */
  caveat?(facts: Facts): string | undefined;
  /** Whether it reads experts that are stored one by one. */
  readonly experts?: true;
}

/** A weight that is quantized. */
type QuantizedWeight = PlannedWeight & { readonly scheme: Scheme };

/** The weights that are quantized. */
export function quantizedOf({ weights }: Content): QuantizedWeight[] {
  return weights.filter((weight): weight is QuantizedWeight => weight.scheme !== undefined);
}

/** What no loader of quantized weights reads. */
function refusedByAll(content: Content): string[] {
  const quantized = quantizedOf(content);
  const reasons: string[] = [];
  if (content.config.model_type === undefined) {
    reasons.push("config.json does not say what model it is (model_type)");
  }
  const odd = quantized.find(({ shape }) => shape.length !== 2);
  if (odd) {
    reasons.push(`"${odd.name}" has ${odd.shape.length} dimensions; loaders read matrices`);
  }
  const other = quantized.find(({ linear, shape }) => !linear && shape.length === 2);
  if (other) {
    reasons.push(`"${other.name}" is no linear layer, and no others are read quantized`);
  }
  return reasons;
}

/** What is known to fail with this architecture. */
function failuresOf(
  name: string,
  content: Content,
  storageOf: (scheme: Scheme) => Storage,
): string[] {
  const quantized = quantizedOf(content);
  // llama.cpp dequantizes before it turns the matrices of such models; nobody has tried.
  const kept = name !== "llama.cpp" &&
    quantized.find(({ inputsFirst }) => inputsFirst === "kept");
  if (kept) {
    return [
      `"${kept.name}" is stored inputs by outputs (a Conv1D), and quantized layers are outputs by ` +
      "inputs",
    ];
  }
  if (name !== "transformers") return [];
  return (architectureOf(content)?.failures ?? [])
    .filter(({ storages, of }) =>
      quantized.some(({ name, scheme }) =>
        storages.includes(storageOf(scheme)) && (of?.test(name) ?? true)
      )
    )
    .map(({ why }) => why);
}

/** Why nothing is known of a loader with this checkpoint; undefined where something is. */
function doubtOf(
  { name, experts }: Pick<Reader<unknown>, "name" | "experts">,
  content: Content,
): string | undefined {
  const architecture = classOf(content);
  if (architecture === undefined) return "config.json names no architecture";
  const known = architectureOf(content);
  if (name === "transformers") {
    if (!known) return `nobody has tried it with ${architecture}`;
    const isWrapper = content.config.text_config !== undefined;
    const left = isWrapper && leftAlone(content.weights).find(({ module }) => !towerOf(module));
    return left
      ? `it has names of its own for the layers of ${architecture}, and may not know ` +
        `"${left.module}", which is left alone`
      : undefined;
  }
  if (!known?.listed.includes(name)) {
    return `not tried with ${architecture}, and its own list of models was not found to have it`;
  }
  // GPTQModel was; its layers are outputs by inputs, whatever was there before.
  if (name !== "GPTQModel" && quantizedOf(content).some(({ inputsFirst }) => inputsFirst)) {
    return "nobody has tried it with quantized layers where a model has matrices of inputs by " +
      "outputs (a Conv1D)";
  }
  const hasExperts = quantizedOf(content).some(({ name }) => EXPERT.test(name));
  return hasExperts && !experts ? "nobody has tried it with experts that are stored so" : undefined;
}

/** The verdicts of a format's readers; `storageOf` says how the format stores a scheme. */
export function verdictsOf<Facts>(
  readers: readonly Reader<Facts>[],
  content: Content,
  { facts, storageOf }: {
    readonly facts: Facts;
    readonly storageOf: (scheme: Scheme) => Storage;
  },
): Verdict[] {
  const all = refusedByAll(content);
  return readers.map((reader) => {
    const { name } = reader;
    const own = reader.refuses(facts).filter((reason) => typeof reason === "string");
    const found = [...own, ...all];
    const reasons = found.length > 0 ? found : failuresOf(name, content, storageOf);
    if (reasons.length > 0) return { name, opens: "no", why: [...new Set(reasons)].join("; ") };
    const doubt = content.misfit ?? doubtOf(reader, content);
    return doubt === undefined
      ? { name, opens: "yes", why: reader.caveat?.(facts) ?? reader.why }
      : { name, opens: "unknown", why: doubt };
  });
}
