/** The flags by which `quantize` and `plan` choose bits for each layer, and what is made of them. */
import type { Backend, DeviceLimits } from "../../backend.ts";
import { RequestError, UnsupportedError } from "../../errors.ts";
import type { BitOptions, BitsTarget, ChosenBits } from "../../bits.ts";
import type { LossKeeper, Sensitivities } from "../../bits/sensitivities.ts";
import type { KeptSearch } from "./kept_search.ts";
import { type Recipe, recipeDocument } from "../../recipe.ts";
import type { Reporter } from "../../report.ts";
import { isApart } from "../../plan/held.ts";
import { size, sizeToGive } from "../../size.ts";
import type { TensorSource } from "../../source.ts";
import type { Flag, Host, ParsedArguments } from "../command.ts";
import type { PreparedWindows } from "../../windows.ts";
import { type AskedBounds, askedBounds, boundFlag } from "./bounds.ts";
import { budgetsOf } from "./budgets.ts";
import { corpusSentence, readCalibration } from "./flags.ts";
import { givenOr, walkLimit } from "./room.ts";

const GROUP = "Bits for each layer";

/** What a linear may become unless options are given. */
const USUAL_OPTIONS = "W3A16,W4A16,W8A16,BF16";
/** Windows that sensitivities are measured on unless told otherwise. */
const USUAL_SAMPLES = 4;

const TARGETS: readonly Flag[] = [
  ...(["target-bpw", "avg-bits"] as const).map((name): Flag => ({
    name,
    type: "number",
    placeholder: "bits",
    min: 1,
    max: 32,
    help: name === "avg-bits"
      ? "the same as --target-bpw"
      : "choose bits for each layer: so many per weight of the linears, scales included, at most",
    group: GROUP,
  })),
  {
    name: "target-size",
    type: "bytes",
    placeholder: "size",
    min: 1,
    help: "choose bits for each layer: an output of so many bytes, at most",
    group: GROUP,
  },
];

/** Flags that say more of a choice of bits. */
const CHOICES: readonly Flag[] = [
  {
    name: "options",
    type: "string",
    placeholder: "list",
    help: `what layers may become (${USUAL_OPTIONS} unless given); BF16 leaves them as they are`,
    group: GROUP,
  },
  {
    name: "include-head",
    type: "boolean",
    help: "choose bits for the output head too, rounded to nearest, where it is not tied to the " +
      "embedding; else it stays as it is",
    group: GROUP,
  },
  {
    name: "bits-rule",
    type: "string",
    choices: ["knapsack", "sigmoid"],
    help:
      "the least loss within the target (knapsack, the default), or round(8 - 4·σ(s)) bits, s " +
      "the standardised sensitivity, which has no target (sigmoid)",
    group: GROUP,
  },
  {
    name: "sensitivity",
    type: "string",
    choices: ["divergence", "loss", "gradient"],
    help: "what a layer loses: the KL divergence when it alone is quantized (divergence, the " +
      "default), what the gradient of the text's likelihood says of that (gradient: one way " +
      "through the model and back), or GPTQ's loss by --loss-report",
    group: GROUP,
  },
  {
    name: "sensitivity-samples",
    type: "integer",
    placeholder: "n",
    min: 1,
    help: `windows of the calibration text to measure on (${USUAL_SAMPLES} unless given)`,
    group: GROUP,
  },
  {
    name: "loss-report",
    type: "string",
    placeholder: "file",
    path: true,
    help: "report.json of an earlier run by gptq, for --sensitivity loss",
    group: GROUP,
  },
  {
    name: "sensitivities",
    type: "string",
    placeholder: "file",
    path: true,
    help: "what --save-sensitivities wrote, in place of a measurement",
    group: GROUP,
  },
  {
    name: "save-sensitivities",
    type: "string",
    placeholder: "file",
    path: true,
    writes: true,
    help: "write what each layer loses by each option, as JSON",
    group: GROUP,
  },
  {
    name: "save-recipe",
    type: "string",
    placeholder: "file",
    path: true,
    writes: true,
    help: "write the recipe that was chosen, as JSON: it can be changed, and given as --recipe",
    group: GROUP,
  },
];

/** All of them. */
export const BITS_FLAGS: readonly Flag[] = [...TARGETS, ...CHOICES];

/** What the flags ask for: a target, the rule that has none, or a search within bounds. */
type Asked =
  | { readonly target: BitsTarget }
  | { readonly rule: "sigmoid" }
  | { readonly within: AskedBounds };

/**
 * What the flags ask for; undefined where they ask for no choice of bits.
 *
 * @throws {RequestError} they contradict each other, or ask for nothing.
 */
export function askedBits(parsed: ParsedArguments): Asked | undefined {
  const within = askedBounds(parsed);
  const bound = boundFlag(parsed);
  const targets = [
    ...TARGETS.filter(({ name }) => parsed.has(name)),
    ...(bound === undefined ? [] : [{ name: bound }]),
  ];
  const sigmoid = parsed.get("bits-rule") === "sigmoid";
  const [first, second] = sigmoid ? [{ name: "bits-rule sigmoid" }, ...targets] : targets;
  const refuse = (one: string, other: string, why: string): never => {
    throw new RequestError(`Cannot use --${one} and --${other} together: ${why}.`);
  };
  if (first && second) {
    refuse(first.name, second.name, sigmoid ? "that rule has no target" : "give one target");
  }
  if (!first) {
    const flag = CHOICES.find(({ name }) => parsed.has(name));
    if (!flag) return undefined;
    throw new RequestError(
      `Cannot use --${flag.name}: no bits are chosen. Give --target-bpw, --target-size or --max-kl.`,
    );
  }
  if (parsed.has("scheme")) {
    refuse("scheme", first.name, "what layers may become is said by --options");
  }
  checkSensitivity(parsed, refuse);
  if (sigmoid) return { rule: "sigmoid" };
  if (within) return { within };
  const value = Number(parsed.get(first.name));
  return { target: first.name === "target-size" ? { bytes: value } : { bitsPerWeight: value } };
}

function checkSensitivity(
  parsed: ParsedArguments,
  refuse: (one: string, other: string, why: string) => never,
): void {
  const kind = parsed.get("sensitivity") ?? "divergence";
  const sources = ["sensitivity", "sensitivity-samples", "loss-report"];
  const other = sources.find((name) => parsed.has(name));
  if (parsed.has("sensitivities") && other !== undefined) {
    refuse("sensitivities", other, "the file says what layers lose");
  }
  if (parsed.has("loss-report") && kind !== "loss") {
    refuse("loss-report", `sensitivity ${kind}`, "a report has losses; say --sensitivity loss");
  }
  if (kind === "loss" && parsed.has("sensitivity-samples")) {
    refuse("sensitivity loss", "sensitivity-samples", "the losses are those of the report");
  }
  if (kind === "loss" && !parsed.has("loss-report")) {
    throw new RequestError(
      "Cannot use --sensitivity loss: say where GPTQ's losses are, --loss-report and the " +
        "report.json of an earlier run.",
    );
  }
}

/** What choosing takes. */
export interface Choosing {
  readonly parsed: ParsedArguments;
  readonly source: TensorSource;
  readonly device: DeviceLimits;
  /** The same device, open. */
  open(): Promise<Backend>;
  readonly host: Host;
  readonly report: Reporter;
  /** Where what is measured is kept beside the output. */
  readonly kept?: KeptSearch | undefined;
}

/** What bits are chosen by. */
export interface BitsWork {
  readonly work: BitOptions;
  readonly sensitivities: Sensitivities;
  /** The windows that these were measured on now; undefined where they were known. */
  readonly sensed: PreparedWindows | undefined;
}

/** A recipe in which bits were chosen, and the table of them. */
export interface SettledBits {
  readonly recipe: Recipe;
  readonly table: string;
}

/**
 * What the flags let layers become, and what each loses by that; this is kept if it is to be.
 *
 * @throws what the library throws.
 */
export async function bitsWork(base: Recipe, choosing: Choosing): Promise<BitsWork> {
  const { parsed, source, device, host } = choosing;
  const { bitOptions, parseBitOptions } = await import("../../bits.ts");
  const options = parseBitOptions(String(parsed.get("options") ?? USUAL_OPTIONS));
  const head = parsed.get("include-head") === true;
  const work = bitOptions(base, source, { options, device, head });
  const { sensitivities, sensed } = await sensitivitiesFor(work, choosing);
  const kept = parsed.get("save-sensitivities");
  if (kept !== undefined) {
    await host.writeText(String(kept), `${JSON.stringify(sensitivities, null, 1)}\n`);
  }
  return { work, sensitivities, sensed };
}

/**
 * Choose bits for a target or by the rule that has none, and write what is to be kept of that.
 *
 * @throws what the library throws.
 */
export async function settleBits(
  base: Recipe,
  asked: Exclude<Asked, { readonly within: AskedBounds }>,
  choosing: Choosing,
): Promise<SettledBits> {
  const { source, device } = choosing;
  const { chooseBits, chooseBySigmoid } = await import("../../bits.ts");
  const { work, sensitivities } = await bitsWork(base, choosing);
  return await settled(
    "rule" in asked
      ? chooseBySigmoid(work, sensitivities)
      : chooseBits(source, work, { sensitivities, target: asked.target, device }),
    sensitivities,
    choosing,
  );
}

/** A choice as it is shown and, if it is to be, kept. */
export async function settled(
  made: ChosenBits,
  sensitivities: Sensitivities,
  { parsed, host }: Pick<Choosing, "parsed" | "host">,
): Promise<SettledBits> {
  const { showBits } = await import("../bits_view.ts");
  const file = parsed.get("save-recipe");
  if (file !== undefined) {
    const document = recipeDocument(made.recipe);
    await host.writeText(String(file), `${JSON.stringify(document, null, 2)}\n`);
  }
  return { recipe: made.recipe, table: showBits(made, sensitivities) };
}

/** What layers lose: from a file, from an earlier run, or measured. */
async function sensitivitiesFor(
  work: BitOptions,
  choosing: Choosing,
): Promise<Omit<BitsWork, "work">> {
  const { parsed, source, host } = choosing;
  const { modelHash, parseSensitivities, sensitivitiesOf } = await import(
    "../../bits/sensitivities.ts"
  );
  const model = await modelHash(source);
  const file = parsed.get("sensitivities");
  if (file !== undefined) {
    const text = await host.readText(String(file));
    return { sensitivities: parseSensitivities(text, String(file), model), sensed: undefined };
  }
  const earlier = parsed.get("loss-report");
  if (earlier === undefined) return await measured(work, choosing);
  const { lossesFromReport } = await import("../../bits/report_losses.ts");
  const { losses, text } = lossesFromReport(
    work.groups,
    await host.readText(String(earlier)),
    String(earlier),
  );
  const sensitivities = sensitivitiesOf(work, losses, { by: "loss", model, text });
  return { sensitivities, sensed: undefined };
}

/** Where losses are kept while they are measured, if they are to be kept at all. */
async function keeperFor(
  { parsed, source, host, kept }: Choosing,
): Promise<LossKeeper | undefined> {
  const file = parsed.get("save-sensitivities");
  if (file === undefined) return kept?.losses;
  const { modelHash } = await import("../../bits/sensitivities.ts");
  const { keeperIn } = await import("./kept_losses.ts");
  const tell = (line: string) => {
    if (!(parsed.knows("quiet") && parsed.get("quiet"))) host.err.write(`sluice: ${line}\n`);
  };
  return keeperIn(String(file), { host, model: await modelHash(source), tell });
}

async function measured(
  work: BitOptions,
  choosing: Choosing,
): Promise<Omit<BitsWork, "work">> {
  const { parsed, source, open, host, report } = choosing;
  const { measureSensitivities, sensitivityMemory } = await import("../../bits.ts");
  const samples = Number(parsed.get("sensitivity-samples") ?? USUAL_SAMPLES);
  // The calibration that follows warns of the text, too.
  const quieter: Reporter = (event) => {
    if (event.type !== "warning" || event.code !== "sample-calibration") report(event);
  };
  const prepared = await readCalibration(parsed, source, { host, report: quieter }, samples);
  const backend = await open();
  const stream = prepared.windows.length * prepared.seqLen * work.model.hiddenSize * 4;
  const by = parsed.get("sensitivity") === "gradient" ? "gradient" : "divergence";
  const candidates = work.groups.reduce((all, { options }) => all + options.length, 0);
  // Beside the original's states one candidate's at least; or those in front of each block.
  const [least, most] = by === "gradient"
    ? [work.model.blocks.length + 2, work.model.blocks.length + 2]
    : [3, 2 + candidates];
  const { ram, vram } = budgetsOf(parsed, { staged: false });
  // Nothing is planned yet: under a budget as few as can be.
  const limit = (ram ?? vram) === undefined
    ? await walkLimit(backend, host, most * stream)
    : least * stream;
  const windows = { ...prepared, stateBudget: givenOr(prepared.stateBudget, limit) };
  const memory = sensitivityMemory(source, work, { by, backend, windows });
  const [flag, budget] = isApart(backend) ? ["max-vram", vram] as const : ["max-ram", ram] as const;
  if (budget !== undefined && memory > budget) {
    throw new UnsupportedError(
      `Cannot keep to \`${flag}\`: measuring sensitivities needs ${sizeToGive(memory)}. Give ` +
        `\`${flag}\` ${sizeToGive(memory)}, fewer windows (\`sensitivitySamples\`), or what was ` +
        "measured elsewhere (`sensitivities`).",
      { what: flag, reason: `measuring sensitivities needs ${sizeToGive(memory)}` },
    );
  }
  if (!(parsed.knows("quiet") && parsed.get("quiet"))) {
    host.err.write(
      `sluice: measuring sensitivities on ${prepared.corpus}, ${corpusSentence(prepared)}: ` +
        `${size(memory)} of memory at most\n`,
    );
  }
  const sensitivities = await measureSensitivities(source, work, {
    by,
    backend,
    windows,
    report,
    keeper: await keeperFor(choosing),
    signal: host.signal,
  });
  return { sensitivities, sensed: prepared };
}
