/**
 * The model card: a `README.md` that says what a checkpoint was made of, how, and how it fared.
 * Front matter for the Hub's search and licence display, then prose. Only what is known is said.
 */
import { type EnergyEstimate, energySentence } from "../plan/energy.ts";
import defer * as yaml from "yaml";
import type { Score } from "../evaluator.ts";
import type { Verdict } from "../format.ts";
import { code, fenced, hubLink, oneLine, table } from "./markdown.ts";
import { size } from "../size.ts";
import { confidenceSentence, limitSentence } from "../report/certificate.ts";
import type { Certificate, Counted, RecordedWindows } from "../report/record.ts";
import type { Plain, SourceCard } from "../sources/source_card.ts";

/** The checkpoint that was quantized. */
export interface CardBase {
  /** The Hub's id, `org/name`; absent for a folder, whose path is nobody's business. */
  readonly id?: string;
  /** The commit that was read. */
  readonly commit?: string;
  readonly card?: SourceCard;
}

/** A text that went through the model, to calibrate or to measure, and how it was cut. */
export interface CardProtocol {
  readonly corpus?: string;
  /** Tokens per window; windows do not overlap. */
  readonly seqLen: number;
  readonly windows: number;
  /** Windows the whole text has. */
  readonly available?: number;
  /** What drew the windows; absent: they are the first of the text. */
  readonly seed?: number;
  /** SHA-256 of the windows' tokens: the record says of what bytes. */
  readonly sha256?: string;
}

/** Windows of a record, as a card has them. */
export function protocolOf(windows: RecordedWindows): CardProtocol {
  const { corpus, seq_len, windows: count, available, seed, sha256 } = windows;
  return {
    ...(corpus === null ? {} : { corpus }),
    seqLen: seq_len,
    windows: count,
    ...(available === null ? {} : { available }),
    ...(seed === null ? {} : { seed }),
    ...(sha256 === null ? {} : { sha256 }),
  };
}

/** A file of weights, by which it can be told whether a copy is whole. */
export interface CardFile {
  readonly path: string;
  readonly size: number;
  /** In hex. */
  readonly sha256: string;
}

/** A picture that goes along. */
export interface CardPicture {
  /** In the repository. */
  readonly path: string;
  readonly title: string;
  /** For those who do not see it. */
  readonly description: string;
}

/** All that a card may say. Whatever is absent is not mentioned. */
export interface CardFacts {
  /** Where readers find it: `org/name`. */
  readonly name: string;
  readonly base?: CardBase;
  /** A licence said by the publisher; without it the base model's. */
  readonly license?: string;
  readonly quantizedBy?: string;
  /** The format's name; absent when nothing is quantized. */
  readonly format?: string;
  /** How many weights became what, the most first: `int4, groups of 64, symmetric`. */
  readonly schemes?: readonly Counted[];
  /** How the codes of how many weights were chosen, likewise: `awq+gptq`. */
  readonly methods?: readonly Counted[];
  /** What methods saw the model's activations on. */
  readonly calibration?: CardProtocol;
  /** Stored bits per quantized weight, scales included. */
  readonly bitsPerWeight?: number;
  /** The first of `config.json`'s architectures. */
  readonly architecture?: string;
  readonly command?: string;
  /** As the object of a recipe file. */
  readonly recipe?: Readonly<Record<string, unknown>>;
  /** `{ Sluice: "0.1.0", Deno: "2.9.6" }` */
  readonly versions?: Readonly<Record<string, string>>;
  /** What it was computed on. */
  readonly device?: string;
  /** Each file but the card itself. */
  readonly files?: readonly CardFile[];
  /** Bytes of all files, and of the base model's tensors. */
  readonly bytes?: number;
  readonly sourceBytes?: number;
  /** By evaluator name, as `run` and `evaluate` give them. */
  readonly scores?: Readonly<Record<string, Score>>;
  readonly protocol?: CardProtocol;
  readonly pictures?: readonly CardPicture[];
  /** What is promised of it. */
  readonly certificate?: Certificate;
  /** What a token takes. */
  readonly energy?: EnergyEstimate;
  readonly loaders?: readonly Verdict[];
  /** Sentences for the section of that name. */
  readonly limits?: readonly string[];
}

/** Every card of Sluice has this tag; a repository with it was published by Sluice. */
export const CARD_TAG = "sluice";

/** A model card, as the text of `README.md`. */
export function modelCard(facts: CardFacts): string {
  const sections = [
    `# ${oneLine(facts.name.split("/").at(-1) ?? facts.name)}`,
    introduction(facts),
    making(facts),
    quality(facts),
    layers(facts),
    guarantee(facts),
    sizes(facts),
    energy(facts),
    loading(facts),
    limits(facts),
    licence(facts),
  ].filter((section) => section !== "");
  return `---\n${frontMatter(facts)}---\n\n${sections.join("\n\n")}\n`;
}

function frontMatter(facts: CardFacts): string {
  const { base, license, quantizedBy } = facts;
  const card = base?.card;
  const pipeline = card?.pipelineTag ??
    (facts.architecture?.endsWith("ForCausalLM") ? "text-generation" : undefined);
  const fields: Record<string, Plain | undefined> = {
    base_model: base?.id,
    base_model_relation: base?.id === undefined || !facts.format ? undefined : "quantized",
    library_name: "transformers",
    pipeline_tag: pipeline,
    license: license ?? card?.license,
    license_name: license === undefined ? card?.licenseName : undefined,
    license_link: license === undefined ? card?.licenseLink : undefined,
    language: card?.language,
    quantized_by: quantizedBy,
    ...card?.gate,
    tags: tagsOf(facts),
  };
  return yamlText(
    Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
  );
}

/**
 * YAML that YAML 1.1 parsers (Python's) and 1.2 parsers (JavaScript's) read alike: `no` is a
 * language, not false.
 */
function yamlText(value: unknown): string {
  return yaml.stringify(value, { version: "1.1", lineWidth: 0 });
}

function tagsOf({ format, schemes = [], loaders = [], base }: CardFacts): string[] {
  const most = schemes[0]?.name ?? "";
  const bits = /(?:int|nf|fp)(\d)/i.exec(most)?.[1];
  const tags = [
    ...(format && bits ? ["quantized", `${bits}-bit`] : []),
    ...(format && format !== "plain" ? [format] : []),
    ...(most.startsWith("fp8") ? ["fp8"] : []),
    ...(loaders.some(({ name, opens }) => name === "vLLM" && opens === "yes") ? ["vllm"] : []),
    ...(base?.card?.tags.includes("conversational") ? ["conversational"] : []),
    CARD_TAG,
  ];
  return [...new Set(tags)];
}

function introduction(facts: CardFacts): string {
  const { base, format, schemes = [], bitsPerWeight } = facts;
  const of = base?.id === undefined ? "A model" : hubLink(base.id);
  if (!format) return `${of}, written by Sluice.`;
  const made = schemes.length === 1 ? `: ${schemes[0]!.name}` : "";
  const bits = bitsPerWeight === undefined ? "" : `, ${bitsPerWeight.toFixed(3)} bits per weight`;
  const list = schemes.length < 2 ? "" : `\n\n${
    table(
      ["scheme", "matrices"],
      schemes.map(({ name, weights }) => [name, count(weights)]),
    )
  }`;
  return `${of} with weights quantized by Sluice${made}, stored as ${code(format)}${bits}.${list}`;
}

function making(facts: CardFacts): string {
  const { command, recipe, versions = {}, device, base, methods = [], calibration } = facts;
  const rows = [
    ...(methods.length === 0 ? [] : [["method", methodsOf(methods)]]),
    ...(calibration ? [["calibrated on", textOf(calibration)]] : []),
    ...(calibration?.sha256 === undefined
      ? []
      : [["SHA-256 of those tokens", code(calibration.sha256)]]),
    ...(base?.commit === undefined ? [] : [["source commit", code(base.commit)]]),
    ...Object.entries(versions).map(([name, version]) => [name, version]),
    ...(device === undefined ? [] : [["device", device]]),
  ];
  const parts = [
    ...(command === undefined ? [] : [fenced(command, "sh")]),
    ...(recipe === undefined ? [] : [`The recipe:\n\n${fenced(yamlText(recipe), "yaml")}`]),
    ...(rows.length === 0 ? [] : [table(["made with", ""], rows)]),
  ];
  return parts.length === 0 ? "" : `## How it was made\n\n${parts.join("\n\n")}`;
}

/** One method, or several and how many weights each chose the codes of. */
function methodsOf(methods: readonly Counted[]): string {
  if (methods.length === 1) return oneLine(methods[0]!.name);
  return methods.map(({ name, weights }) =>
    `${oneLine(name)} (${count(weights)} weight${weights === 1 ? "" : "s"})`
  )
    .join(", ");
}

/** `sample: 16 of 125 windows of 512 tokens` */
function textOf({ corpus, windows, available, seqLen, seed }: CardProtocol): string {
  const of = available === undefined ? "" : ` of ${count(available)}`;
  const drawn = seed === undefined ? "" : `, drawn with seed ${seed}`;
  return `${corpus === undefined ? "" : `${oneLine(corpus)}: `}${count(windows)}${of} windows of ` +
    `${count(seqLen)} tokens${drawn}`;
}

function quality({ scores = {}, protocol }: CardFacts): string {
  const { perplexity, divergence } = scores;
  const rows: string[][] = [];
  if (perplexity?.perplexity !== undefined) {
    const { perplexity: after, original_perplexity: before } = perplexity;
    const change = before === undefined ? "" : ` (${signed((after! / before - 1) * 100)} %)`;
    rows.push(["perplexity", before?.toFixed(4) ?? "", `${after!.toFixed(4)}${change}`]);
  }
  if (divergence?.mean !== undefined) {
    const { mean, standard_error: error, p99, same_top_percent: same } = divergence;
    const spread = error === undefined ? "" : ` ± ${error.toPrecision(3)}`;
    rows.push(["KL divergence, nats per token", "0", `${mean.toPrecision(3)}${spread}`]);
    if (p99 !== undefined) {
      rows.push(["KL divergence, 99th percentile", "0", p99.toPrecision(3)]);
    }
    if (same !== undefined) rows.push(["same top token", "100 %", `${same.toFixed(2)} %`]);
  }
  if (rows.length === 0) return "";
  const text = [
    ...(protocol
      ? [
        `Measured on ${
          textOf(protocol)
        } that do not overlap, every token but a window's first predicted.`,
        ...(protocol.sha256 === undefined
          ? []
          : [`The SHA-256 of those tokens is ${code(protocol.sha256)}.`]),
      ]
      : []),
    ...(divergence ? ["KL divergence is from the original, over the whole vocabulary."] : []),
  ].join(" ");
  return [
    "## Quality",
    table(["", "original", "quantized"], rows),
    ...(text === "" ? [] : [text]),
  ].join("\n\n");
}

function layers({ pictures = [] }: CardFacts): string {
  if (pictures.length === 0) return "";
  const shown = pictures.map(({ path, title, description }) =>
    `![${oneLine(`${title}. ${description}`)}](${path})`
  );
  return `## Layer by layer\n\n${shown.join("\n\n")}`;
}

function guarantee({ certificate }: CardFacts): string {
  if (!certificate) return "";
  const { holds, limits, text, steering_windows: steering } = certificate;
  const how = confidenceSentence(certificate);
  return [
    `## ${holds ? "Guarantee" : "Bounds that it does not keep"}`,
    limits.map((limit) => `- ${limitSentence(limit)}`).join("\n"),
    `${how.charAt(0).toUpperCase()}${how.slice(1)}; ${textOf(protocolOf(text))}, none of which ` +
    `calibration has seen.${
      text.sha256 === null ? "" : ` The SHA-256 of their tokens is ${code(text.sha256)}.`
    } ${
      count(steering)
    } other windows steered the search for the recipe. \`sluice verify\` can measure ` +
    "it again.",
  ].join("\n\n");
}

function sizes({ bytes, sourceBytes, files = [] }: CardFacts): string {
  if (bytes === undefined) return "";
  const from = sourceBytes === undefined
    ? ""
    : `, from ${size(sourceBytes)} (${(bytes / sourceBytes * 100).toFixed(1)} %)`;
  const rows = files.map((
    { path, size: bytes, sha256 },
  ) => [code(path), size(bytes), code(sha256)]);
  const list = rows.length === 0 ? "" : `\n\n${table(["file", "size", "SHA-256"], rows)}`;
  return `## Size\n\n${size(bytes)}${from}.${list}`;
}

function energy({ energy }: CardFacts): string {
  return energy === undefined ? "" : `## Energy\n\n${oneLine(energySentence(energy))}.`;
}

/** What Python needs beside transformers, by format. */
const PACKAGES: Readonly<Record<string, string>> = {
  "compressed-tensors": " compressed-tensors",
  bitsandbytes: " bitsandbytes",
  gptq: " optimum gptqmodel",
  awq: " gptqmodel",
};

function loading({ name, format = "plain", loaders = [], architecture }: CardFacts): string {
  const parts: string[] = [];
  const open = (loader: string) =>
    loaders.find((one) => one.name === loader && one.opens === "yes");
  const transformers = open("transformers");
  if (transformers) {
    const head = architecture?.endsWith("ForCausalLM") === false
      ? "AutoModel"
      : "AutoModelForCausalLM";
    // compressed-tensors' own sentence says when its placeholders do not fit what is stored.
    const whole = transformers.why.includes("CompressedTensorsConfig(dequantize=True)");
    parts.push(
      `With transformers (\`pip install transformers accelerate${PACKAGES[format] ?? ""}\`):`,
      fenced(
        [
          `from transformers import ${head}, AutoTokenizer${
            whole ? ", CompressedTensorsConfig" : ""
          }`,
          "",
          `name = ${JSON.stringify(name)}`,
          `model = ${head}.from_pretrained(name, device_map="auto"${
            whole ? ", quantization_config=CompressedTensorsConfig(dequantize=True)" : ""
          })`,
          "tokenizer = AutoTokenizer.from_pretrained(name)",
        ].join("\n"),
        "python",
      ),
    );
  }
  if (open("vLLM")) parts.push("With vLLM:", fenced(`vllm serve ${name}`, "sh"));
  if (loaders.length > 0) {
    parts.push(table(
      ["loader", "opens it", ""],
      loaders.map(({ name, opens, why }) => [name, opens, why]),
    ));
  }
  return parts.length === 0 ? "" : `## How to load it\n\n${parts.join("\n\n")}`;
}

function limits({ format, scores = {}, limits = [] }: CardFacts): string {
  const lines = [
    ...(format && Object.keys(scores).length === 0
      ? ["How far this model is from the original was not measured."]
      : []),
    ...(format
      ? [
        "Rounded weights change some answers. Try the model on your own task before relying on it.",
      ]
      : []),
    "The base model's limits and biases are here too.",
    ...limits.map(oneLine),
  ];
  return `## Limits\n\n${lines.map((line) => `- ${line}`).join("\n")}`;
}

function licence({ license, base }: CardFacts): string {
  const card = base?.card;
  const given = license ?? card?.license;
  const of = base?.id === undefined ? "the base model" : hubLink(base.id);
  const named = typeof given === "string" ? given : given?.join(", ");
  const link = license === undefined ? card?.licenseLink : undefined;
  const name = license === undefined ? card?.licenseName : undefined;
  if (named === undefined) {
    return `## Licence\n\nNo licence was found in the card of ${of}. Ask its authors before using or sharing this model.`;
  }
  const said = [code(named), ...(name ? [code(name)] : []), ...(link ? [code(link)] : [])];
  return `## Licence\n\n${said.join(", ")}${license === undefined ? `, as ${of}` : ""}.`;
}

function count(n: number): string {
  return n.toLocaleString("en-US");
}

function signed(percent: number): string {
  return `${percent >= 0 ? "+" : ""}${percent.toFixed(2)}`;
}
