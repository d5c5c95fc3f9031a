/**
 * The flags that several commands share, and what is made of them: a device, a recipe, windows of
 * text.
 */
import { disk } from "../../io/disk.ts";
import type { Backend } from "../../backend.ts";
import type { Argument, Flag, Host, ParsedArguments } from "../command.ts";
import { RequestError } from "../../errors.ts";
import {
  CALIBRATION,
  type CorpusOptions,
  prepareCalibration,
  type PreparedWindows,
  prepareWindows,
  SEQ_LEN,
} from "../../windows.ts";
import { findDevice, type FoundDevice } from "../../open.ts";
import type { OptionValue } from "../../option.ts";
import { MAX_SEED } from "../../corpora/random.ts";
import { boundFlag } from "./bounds.ts";
import { hubClient } from "./model.ts";
import { type Recipe, RECIPE_OPTIONS, recipeFromOptions, RULE_OPTIONS } from "../../recipe.ts";
import { type NamedRecipe, parseOutputs, parseRecipe } from "../../recipe_file.ts";
import type { Reporter } from "../../report.ts";
import type { TensorSource } from "../../source.ts";
import type { EvaluationInput } from "../../forward/streams.ts";
import { count } from "../text.ts";

/** The checkpoint a command is about. */
export const MODEL: Argument = {
  name: "model",
  help:
    "a .safetensors file, a folder of them, org/name[@revision] on the Hub, or sample: the model that Sluice carries",
};

const RECIPE_GROUP = "What weights become";

/** What weights become: a scheme and its options, or a recipe. */
export const RECIPE_FLAGS: readonly Flag[] = [
  ...[...RULE_OPTIONS, ...RECIPE_OPTIONS].map((option) => ({ ...option, group: RECIPE_GROUP })),
  {
    name: "ignore",
    type: "string",
    placeholder: "pattern",
    help: "tensors to leave alone: a glob, or re: and a regular expression",
    repeat: true,
    group: RECIPE_GROUP,
  },
  {
    name: "recipe",
    type: "string",
    placeholder: "file",
    path: true,
    help:
      "a recipe in JSON or YAML, in place of the flags of this group; with a list of outputs it " +
      "makes several by one read",
    group: RECIPE_GROUP,
  },
];

const MEASURE_GROUP = "Measuring";

const TEXTS =
  "a text file, rows of texts or chats (.json, .jsonl, .csv, .parquet, …), wikitext2, " +
  "c4, or org/dataset on the Hub";

const CORPUS_FLAG: Flag = {
  name: "corpus",
  type: "string",
  placeholder: "file",
  path: true,
  help: `the text to measure on: sample, ${TEXTS}`,
  default: "sample",
  group: MEASURE_GROUP,
};

/** How much of hidden states stays in memory. */
export const STATES_FLAG: Flag = {
  name: "max-states",
  type: "bytes",
  placeholder: "size",
  min: 1,
  help:
    "hidden states kept in memory, of each text; more go to a temporary file (unless given, as " +
    "many as the GPU has room for, or half of the machine's memory)",
  group: MEASURE_GROUP,
};

/** What draws windows. */
const SEED_FLAG = { type: "integer", placeholder: "n", min: 0, max: MAX_SEED } as const;

/** How many windows there are, and how long they are. */
function windowFlags(
  prefix: "" | "eval-",
  { group, ...help }: { group: string; numSamples: string; seqLen: string },
): Flag[] {
  const common = { type: "integer", placeholder: "n", group } as const;
  return [
    { ...common, name: `${prefix}num-samples`, min: 1, help: help.numSamples },
    { ...common, name: `${prefix}seq-len`, min: 2, help: help.seqLen },
  ];
}

/** The text a model is measured on. */
export const CORPUS_FLAGS: readonly Flag[] = [
  CORPUS_FLAG,
  ...windowFlags("", {
    group: MEASURE_GROUP,
    numSamples: "windows to measure, from the beginning of the text (all unless given)",
    seqLen: `tokens per window (${SEQ_LEN}, or what the model was made for, unless given)`,
  }),
  STATES_FLAG,
];

/** What `plan` and `quantize` share: whether the run will be measured. */
export const EVALUATE_FLAG = {
  name: "evaluate",
  type: "boolean",
  help: "measure perplexity before and after, and the KL divergence, in the same pass",
  default: false,
  group: "Measuring",
} as const;

/** Of `plan`: where it is saved. */
export const SAVE_PLAN_FLAG: Flag = {
  name: "save-plan",
  type: "string",
  placeholder: "file",
  path: true,
  writes: true,
  help: "write the plan as JSON, for quantize --plan: what it says is what is done",
  group: "Output",
};

/** Of `quantize`: the plan to run. */
export const PLAN_FLAG: Flag = {
  name: "plan",
  type: "string",
  placeholder: "file",
  path: true,
  help: "run the plan that `plan --save-plan` has written: its recipe, sizes and texts",
  group: "Output",
};

/**
 * The same where a model is quantized too: the short names are the calibration's there, and this
 * follows them.
 */
export const EVALUATION_FLAGS: readonly Flag[] = [
  CORPUS_FLAG,
  ...windowFlags("eval-", {
    group: MEASURE_GROUP,
    numSamples:
      "windows to measure, from the beginning of the text (as --num-samples if given, else all)",
    seqLen: `tokens per window to measure (as --seq-len if given, else ${SEQ_LEN}, or what the ` +
      "model was made for)",
  }),
  {
    ...SEED_FLAG,
    name: "eval-seed",
    help: "draw the windows to measure from the whole text, the same ones for the same number " +
      "(the first ones unless given; with a bound, 0)",
    group: MEASURE_GROUP,
  },
  STATES_FLAG,
];

const CALIBRATION_GROUP = "Calibrating";

/** The text that methods see a model's activations on. */
export const CALIBRATION_FLAGS: readonly Flag[] = [
  {
    name: "calibration",
    type: "string",
    placeholder: "file",
    path: true,
    help: `the text to calibrate on: sample, ${TEXTS} (sample unless given)`,
    group: CALIBRATION_GROUP,
  },
  ...windowFlags("", {
    group: CALIBRATION_GROUP,
    numSamples: `windows to calibrate on (${CALIBRATION.numSamples} unless given); also to ` +
      "measure, unless --eval-num-samples is given",
    seqLen: `tokens per window (${CALIBRATION.seqLen}, or what the model was made for, unless ` +
      "given); also to measure, unless --eval-seq-len is given",
  }),
  {
    ...SEED_FLAG,
    name: "seed",
    help: "draw the windows to calibrate on from the whole text, the same ones for the same " +
      "number (the first ones unless given)",
    group: CALIBRATION_GROUP,
  },
];

const DEVICE_GROUP = "Device";

/** Where the work is done. */
export const DEVICE_FLAGS: readonly Flag[] = [
  {
    name: "device",
    type: "string",
    choices: ["auto", "webgpu", "wasm"],
    help: "auto takes a GPU if there is one, else the CPU (wasm)",
    default: "auto",
    group: DEVICE_GROUP,
  },
  {
    name: "threads",
    type: "integer",
    placeholder: "n",
    min: 1,
    max: 256,
    help: "CPU threads (all unless given)",
    group: DEVICE_GROUP,
  },
  {
    name: "blas",
    type: "string",
    placeholder: "auto|none|path",
    help: "what multiplies matrices on the CPU: a BLAS of the system where there is one and " +
      "--allow-ffi is given, Sluice's own kernels, or the library at a path",
    default: "auto",
    group: DEVICE_GROUP,
  },
  {
    name: "check-device",
    type: "boolean",
    help: "compute a part of what a GPU does on the CPU, too, and stop where they differ",
    default: true,
    group: DEVICE_GROUP,
  },
];

/** The device that the flags ask for; see `findDevice` for what is open of it. */
export function findDeviceFor(parsed: ParsedArguments, report: Reporter): Promise<FoundDevice> {
  return findDevice(parsed.get("device") as "auto" | "webgpu" | "wasm", {
    report,
    checkDevice: parsed.get("check-device") !== false,
    ...(parsed.has("blas") ? { blas: String(parsed.get("blas")) } : {}),
    ...(parsed.has("threads") ? { threads: Number(parsed.get("threads")) } : {}),
  });
}

/** The same, open. */
export async function openDevice(parsed: ParsedArguments, report: Reporter): Promise<Backend> {
  return await (await findDeviceFor(parsed, report)).open();
}

/**
 * The recipe that the flags make, or the one in a file.
 *
 * @throws {RequestError} both were given, or the recipe is wrong.
 */
export async function readRecipe(parsed: ParsedArguments, host: Host): Promise<Recipe> {
  const file = parsed.get("recipe");
  if (file === undefined) {
    const rows = [...RULE_OPTIONS, ...RECIPE_OPTIONS].filter(({ name }) => parsed.has(name));
    const given = Object.fromEntries(rows.map(({ name }) => [name, parsed.get(name)]));
    return recipeFromOptions(given, parsed.all("ignore"));
  }
  refuseBeside(parsed, String(file));
  return parseRecipe(await host.readText(String(file)), String(file));
}

/**
 * The outputs that a recipe file asks for; undefined where it asks for one, or there is none.
 *
 * @throws {RequestError} flags of a recipe were given too, or the recipe is wrong.
 */
export async function readOutputs(
  parsed: ParsedArguments,
  host: Host,
): Promise<NamedRecipe[] | undefined> {
  const file = parsed.get("recipe");
  if (file === undefined) return undefined;
  const outputs = parseOutputs(await host.readText(String(file)), String(file));
  if (outputs) refuseBeside(parsed, String(file));
  return outputs;
}

/** @throws {RequestError} flags say what weights become, and a recipe does. */
function refuseBeside(parsed: ParsedArguments, file: string): void {
  const rows = [...RULE_OPTIONS, ...RECIPE_OPTIONS].filter(({ name }) => parsed.has(name));
  const other = rows[0]?.name ?? (parsed.has("ignore") ? "ignore" : undefined);
  if (other === undefined) return;
  throw new RequestError(
    `Cannot use --${other} and --recipe together: the recipe says what weights become. ` +
      `Write ${other.replaceAll("-", "_")} into ${file}.`,
  );
}

/**
 * The windows of text to measure on; without numbers of its own the measurement takes the
 * calibration's.
 */
export async function readWindows(
  parsed: ParsedArguments,
  source: TensorSource,
  { host, report }: { host: Host; report: Reporter },
): Promise<PreparedWindows> {
  const prefix = parsed.knows("eval-seq-len") ? "eval-" : "";
  // What is to stand for a text is drawn from all of it.
  const usual = boundFlag(parsed) === undefined ? undefined : 0;
  const seed = prefix === "" ? undefined : parsed.get("eval-seed") ?? usual;
  return await prepareWindows(source, {
    ...await textOptions(parsed, { corpus: parsed.get("corpus"), prefix, host }),
    ...(seed === undefined ? {} : { seed: Number(seed) }),
    report,
  });
}

/**
 * The windows of text to calibrate on; see {@linkcode CALIBRATION_FLAGS}.
 *
 * @param samples Windows in place of as many as the flags say.
 */
export async function readCalibration(
  parsed: ParsedArguments,
  source: TensorSource,
  { host, report }: { host: Host; report: Reporter },
  samples?: number,
): Promise<PreparedWindows> {
  const seed = parsed.get("seed");
  return await prepareCalibration(source, {
    ...await textOptions(parsed, { corpus: parsed.get("calibration"), prefix: "", host }),
    ...(seed === undefined ? {} : { seed: Number(seed) }),
    ...(samples === undefined ? {} : { numSamples: samples }),
    report,
  });
}

/** What text the flags ask for, and how much of it. */
async function textOptions(
  parsed: ParsedArguments,
  { corpus, prefix, host }: { corpus: OptionValue | undefined; prefix: "" | "eval-"; host: Host },
): Promise<CorpusOptions> {
  const number = (name: string) => parsed.get(`${prefix}${name}`) ?? parsed.get(name);
  const [seqLen, numSamples] = [number("seq-len"), number("num-samples")];
  return {
    ...(corpus === undefined ? {} : { corpus: String(corpus) }),
    ...(corpus === undefined || corpus === "sample" ? {} : { hub: await hubClient(host) }),
    stateBudget: Number(parsed.get("max-states") ?? Infinity),
    ...(seqLen === undefined ? {} : { seqLen: Number(seqLen) }),
    ...(numSamples === undefined ? {} : { numSamples: Number(numSamples) }),
  };
}

/** What text a number was measured on, in words. */
export function corpusSentence({ windows, available, seqLen, tokens }: PreparedWindows): string {
  return `${count(windows.length)} of ${count(available)} windows of ${count(seqLen)} tokens ` +
    `(the text has ${count(tokens)})`;
}

/**
 * Windows with a place for hidden states, if they do not fit in the budget, or for `others` that
 * want one.
 */
export async function withSpill(
  evaluation: PreparedWindows,
  { floatsPerToken, others = false, host, stack }: {
    floatsPerToken: number;
    others?: boolean;
    host: Host;
    stack: AsyncDisposableStack;
  },
): Promise<EvaluationInput> {
  const { windows, seqLen, stateBudget } = evaluation;
  const fits = windows.length * seqLen * floatsPerToken * 4 <= stateBudget;
  if (fits && !others) return evaluation;
  const folder = stack.use(await host.temporaryFolder());
  return { ...evaluation, spill: { disk, folder: folder.path } };
}
