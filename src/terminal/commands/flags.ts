/** The flags that several commands share, and what is made of them: a device, a recipe, windows of text, views of the events. */
import { disk } from "../../io/disk.ts";
import type { Backend } from "../../backend.ts";
import type { Argument, Flag, Host, Said } from "../command.ts";
import { RequestError } from "../../errors.ts";
import { type PreparedWindows, prepareWindows, SEQ_LEN, STATE_BUDGET } from "../../evaluate.ts";
import { HubClient } from "../../hub/client.ts";
import { openBackend } from "../../open.ts";
import { hubAccess } from "./model.ts";
import {
  parseRecipe,
  type Recipe,
  RECIPE_OPTIONS,
  recipeFromOptions,
  RULE_OPTIONS,
} from "../../recipe.ts";
import type { Reporter } from "../../report.ts";
import type { TensorSource } from "../../source.ts";
import type { EvaluationInput } from "../../streams.ts";
import { allViews, barView, jsonView, lineView, logView, type View } from "../progress.ts";
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
    help: "a recipe in JSON or YAML, in place of the flags of this group",
    group: RECIPE_GROUP,
  },
];

const MEASURE_GROUP = "Measuring";

/** The text a model is measured on. */
export const CORPUS_FLAGS: readonly Flag[] = [
  {
    name: "corpus",
    type: "string",
    placeholder: "file",
    help:
      "the text to measure on: sample, a text or .jsonl file, wikitext2, c4, or org/dataset on the Hub",
    default: "sample",
    group: MEASURE_GROUP,
  },
  {
    name: "seq-len",
    type: "integer",
    placeholder: "n",
    min: 2,
    help: `tokens per window (${SEQ_LEN}, or what the model was made for, unless given)`,
    group: MEASURE_GROUP,
  },
  {
    name: "num-samples",
    type: "integer",
    placeholder: "n",
    min: 1,
    help: "windows to measure, from the beginning of the text (all unless given)",
    group: MEASURE_GROUP,
  },
  {
    name: "max-states",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help: "hidden states kept in memory; more go to a temporary file",
    default: STATE_BUDGET,
    group: MEASURE_GROUP,
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
];

const MESSAGE_GROUP = "Messages";

/** Results as JSON. */
export const JSON_FLAG: Flag = {
  name: "json",
  type: "boolean",
  help: "print JSON on standard output",
  default: false,
  group: MESSAGE_GROUP,
};

/** How events are shown. */
export const MESSAGE_FLAGS: readonly Flag[] = [
  { ...JSON_FLAG, help: "print events and results as lines of JSON on standard output" },
  {
    name: "quiet",
    type: "boolean",
    help: "no progress, no messages but errors",
    default: false,
    group: MESSAGE_GROUP,
  },
  {
    name: "log-file",
    type: "string",
    placeholder: "file",
    help: "append every event to a file, as lines with the time",
    group: MESSAGE_GROUP,
  },
];

/** The views that the flags ask for. */
export function openViews(said: Said, host: Host): View {
  const log = said.get("log-file");
  return allViews([
    ...(said.get("json") ? [jsonView(host.out)] : []),
    ...(log === undefined ? [] : [logView(host.openLog(String(log)))]),
    ...(said.get("quiet")
      ? []
      : [host.err.isTerminal ? barView(host.err, host) : lineView(host.err)]),
  ]);
}

/** Shows warnings alone: for commands that print one result. */
export function warningsTo(host: Host): Reporter {
  return (event) => {
    if (event.type === "warning") host.err.write(`sluice: warning: ${event.message}\n`);
  };
}

/** The device that the flags ask for. */
export function openDevice(said: Said, report: Reporter): Promise<Backend> {
  const threads = said.get("threads");
  return openBackend(said.get("device") as "auto" | "webgpu" | "wasm", {
    report,
    ...(threads === undefined ? {} : { threads: Number(threads) }),
  });
}

/**
 * The recipe that the flags make, or the one in a file.
 *
 * @throws {RequestError} both were given, or the recipe is wrong.
 */
export async function readRecipe(said: Said, host: Host): Promise<Recipe> {
  const rows = [...RULE_OPTIONS, ...RECIPE_OPTIONS].filter(({ name }) => said.has(name));
  const file = said.get("recipe");
  if (file === undefined) {
    const given = Object.fromEntries(rows.map(({ name }) => [name, said.get(name)]));
    return recipeFromOptions(given, said.all("ignore"));
  }
  const other = rows[0]?.name ?? (said.has("ignore") ? "ignore" : undefined);
  if (other !== undefined) {
    throw new RequestError(
      `Cannot use --${other} and --recipe together: the recipe says what weights become. ` +
        `Write ${other.replaceAll("-", "_")} into ${file}.`,
    );
  }
  return parseRecipe(await host.readText(String(file)), String(file));
}

/** The windows of text that the flags ask for. */
export async function readWindows(
  said: Said,
  source: TensorSource,
  { host, report }: { host: Host; report: Reporter },
): Promise<PreparedWindows> {
  const [seqLen, numSamples] = [said.get("seq-len"), said.get("num-samples")];
  const corpus = String(said.get("corpus"));
  return await prepareWindows(source, {
    corpus,
    report,
    ...(corpus === "sample" ? {} : { hub: new HubClient(await hubAccess(host)) }),
    stateBudget: Number(said.get("max-states")),
    ...(seqLen === undefined ? {} : { seqLen: Number(seqLen) }),
    ...(numSamples === undefined ? {} : { numSamples: Number(numSamples) }),
  });
}

/** What text a number was measured on, in words. */
export function corpusSentence({ windows, available, seqLen, tokens }: PreparedWindows): string {
  return `${count(windows.length)} of ${count(available)} windows of ${count(seqLen)} tokens ` +
    `(the text has ${count(tokens)})`;
}

/** Windows with a place for hidden states, if they do not fit in the budget. */
export async function withSpill(
  evaluation: PreparedWindows,
  { hiddenSize, streams, host, stack }: {
    hiddenSize: number;
    streams: number;
    host: Host;
    stack: AsyncDisposableStack;
  },
): Promise<EvaluationInput> {
  const { windows, seqLen, stateBudget } = evaluation;
  if (streams * windows.length * seqLen * hiddenSize * 4 <= stateBudget) return evaluation;
  const folder = stack.use(await host.temporaryFolder());
  return { ...evaluation, spill: { disk, folder: folder.path } };
}

/** What a plan's evaluation needs to know of the windows. */
export function requestOf({ seqLen, windows, stateBudget }: PreparedWindows): {
  seqLen: number;
  windows: number;
  stateBudget: number;
} {
  return { seqLen, windows: windows.length, stateBudget };
}

/** @throws {RequestError} the output would take the place of the checkpoint it is made of. */
export async function checkApart(model: string, output: string): Promise<void> {
  if (model === "sample") return;
  const [from, to] = await Promise.all([real(model), real(output)]);
  if (from === undefined || to === undefined) return;
  if (from === to || from.startsWith(`${to}/`) || from.startsWith(`${to}\\`)) {
    throw new RequestError(
      `Cannot write to "${output}": the checkpoint that is read lies there. Give another folder.`,
    );
  }
}

async function real(path: string): Promise<string | undefined> {
  return await disk.stat(path) ? await disk.realPath(path) : undefined;
}
