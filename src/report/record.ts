/**
 * The record of a run: what was made of what, how, and how it fared, as `sluice.json` in the
 * checkpoint's folder. It goes wherever the checkpoint goes, so that a card can be written of it
 * later; nothing in it is of the machine's paths, and nothing of the time, so that the same command
 * gives the same record. Keys are in snake_case and stay what they are as long as `version` does;
 * what does not apply is null.
 */
import { RECORD_FILE } from "../io/names.ts";
import type { CalibrationInput } from "../calibration/input.ts";
import type { Score } from "../evaluator.ts";
import { plainNumbers } from "../json.ts";
import { type EnergyEstimate, energyOf, type EnergyTable } from "../plan/energy.ts";
import type { Plan, Sidecar, WindowsRequest } from "../plan/planned.ts";
import { recipeDocument } from "../recipe.ts";
import type { StreamErrors } from "../forward/stream_error.ts";
import type { Event, Limit, TensorReport, TextFacts } from "../report.ts";
import type { SourceCard } from "../sources/source_card.ts";
import { byteLength, sum } from "../tensor.ts";
import { VERSION } from "../version.ts";
import { type AlongDepth, alongDepth } from "./along_depth.ts";

/** Windows that walked through the model. */
export interface RecordedWindows {
  readonly corpus: string | null;
  readonly windows: number;
  /** Windows the whole text has. */
  readonly available: number | null;
  readonly seq_len: number;
  readonly tokens: number;
  readonly seed: number | null;
  /** See {@linkcode TextFacts.sha256}. */
  readonly sha256: string | null;
}

/** Bounds, and what stands behind them. */
export interface Certificate {
  /** Whether every limit is below its bound. */
  readonly holds: boolean;
  readonly limits: readonly Limit[];
  /** One-sided. */
  readonly confidence: number;
  /** Tries among which the confidence is shared out. */
  readonly tries: number;
  /** The windows that judged. */
  readonly text: RecordedWindows;
  /** Windows that were drawn from the text besides, and steered the search. */
  readonly steering_windows: number;
}

/** A name, and how many weights have it. */
export interface Counted {
  readonly name: string;
  readonly weights: number;
}

/** What was made of what, how, and how it fared. */
export interface RunRecord {
  readonly version: 1;
  /** `sluice 0.1.0` */
  readonly generator: string;
  /** `deno 2.9.6` */
  readonly runtime: string;
  /** The command as others can repeat it; null when a program called the library. */
  readonly command: string | null;
  readonly model: {
    /** A repository's id, or the name of a folder or file. */
    readonly name: string;
    /** A repository's id and commit, `org/name@commit`; null for a folder. */
    readonly id: string | null;
    readonly type: string | null;
    readonly blocks: number | null;
    /** What its card says of licence and language; null when it has none. */
    readonly card: RecordedCard | null;
  };
  readonly device: { readonly name: string; readonly description: string };
  /** With the keys of a recipe file, which it can be used as. */
  readonly recipe: Readonly<Record<string, unknown>>;
  readonly format: string;
  /**
   * Of quantized weights, the most frequent first; a weight that gptq could not do counts as rtn.
   */
  readonly methods: readonly Counted[];
  readonly schemes: readonly Counted[];
  /**
   * Whose hidden states calibration saw, and whether errors of earlier blocks were repaired; null
   * without calibration.
   */
  readonly calibrate_on: Plan["recipe"]["calibrateOn"] | null;
  readonly propagate: boolean | null;
  /**
   * The share of the activations that is below the threshold of outliers, where that was found by
   * the calibration's text.
   */
  readonly outlier_quantile: number | null;
  /** Bytes of the model's tensors, and of all files written but this one. */
  readonly source_bytes: number;
  readonly total_bytes: number;
  /**
   * Tensors of the checkpoint, and their bytes: whoever reads the record can tell whether it is of
   * these.
   */
  readonly stored: { readonly tensors: number; readonly bytes: number };
  readonly quantized_weights: number;
  readonly bits_per_weight: number;
  readonly calibration: RecordedWindows | null;
  readonly evaluation: RecordedWindows | null;
  /** By evaluator; empty without an evaluation. */
  readonly scores: Readonly<Record<string, Score>>;
  /** Errors and widths along the layers; null where none were measured and one width has all. */
  readonly along_depth: AlongDepth | null;
  /** What is promised of it; null where nothing is. */
  readonly certificate: Certificate | null;
  /**
   * An estimate of the energy of a token; null where the architecture is not known.
   */
  readonly energy: EnergyEstimate | null;
  /** Weights that a method could not do and that were rounded to nearest. */
  readonly fallbacks: readonly string[];
  /** How often each warning was given, by its code. */
  readonly warnings: Readonly<Record<string, number>>;
}

/** Of a base model's card, what its publishers asked to travel along. */
export interface RecordedCard {
  readonly license: NonNullable<SourceCard["license"]> | null;
  readonly license_name: string | null;
  readonly license_link: string | null;
  readonly language: NonNullable<SourceCard["language"]> | null;
  readonly pipeline_tag: string | null;
  readonly conversational: boolean;
  readonly gate: SourceCard["gate"];
}

/** What a plan does not know of its run. */
export interface RecordFacts {
  readonly command: string | undefined;
  readonly tensors: readonly TensorReport[];
  readonly scores: RunRecord["scores"];
  readonly warnings: readonly Pick<Extract<Event, { type: "warning" }>, "code">[];
  /** What the device calls itself. */
  readonly device: string;
  readonly card: SourceCard | undefined;
  /** What was calibrated on, or the threshold of outliers found by. */
  readonly calibration: CalibrationInput | undefined;
  readonly evaluation: Partial<TextFacts> | undefined;
  readonly certificate?: Certificate | undefined;
  /** Absent without an evaluation. */
  readonly streamErrors?: StreamErrors | undefined;
  /** Energies to estimate by, unless Horowitz's. */
  readonly energyTable: EnergyTable | undefined;
}

/** Put together what is known of a run. */
export function recordOf(plan: Plan, facts: RecordFacts): RunRecord {
  const { calibration, evaluation, model, recipe, source } = plan;
  const { tensors, calibration: input } = facts;
  const seen = calibration ??
    (recipe.outlierQuantile !== undefined && input
      ? { windows: input.windows.length, seqLen: input.windows[0]!.length, stateBudget: 0 }
      : undefined);
  const hub = isPinned(source);
  return {
    version: 1,
    generator: `sluice ${VERSION}`,
    runtime: `deno ${Deno.version.deno}`,
    command: facts.command ?? null,
    model: {
      // Where a folder lies is nobody's business.
      name: hub ? source.label : source.label.split(/[/\\]/).findLast((part) => part !== "") ?? "",
      id: hub ? source.id : null,
      type: model?.modelType ?? null,
      blocks: model?.blocks.length ?? null,
      card: facts.card ? recordedCard(facts.card) : null,
    },
    device: { name: plan.device, description: facts.device },
    recipe: recipeDocument(recipe),
    format: plan.format.name,
    methods: counted(tensors.map(methodOf)),
    schemes: counted(tensors.map(({ scheme }) => scheme)),
    calibrate_on: calibration ? recipe.calibrateOn : null,
    propagate: calibration ? plan.propagate : null,
    outlier_quantile: recipe.outlierQuantile ?? null,
    source_bytes: plan.sourceBytes,
    total_bytes: plan.totalBytes,
    stored: storedBy(plan),
    quantized_weights: plan.quantizedWeights,
    bits_per_weight: plan.bitsPerWeight,
    calibration: seen ? recordedWindows(seen, facts.calibration) : null,
    evaluation: evaluation ? recordedWindows(evaluation, facts.evaluation) : null,
    scores: facts.scores,
    along_depth: alongDepth(tensors, facts.streamErrors),
    certificate: facts.certificate ?? null,
    energy: energyOf(plan, {
      scores: facts.scores,
      ...(facts.energyTable ? { table: facts.energyTable } : {}),
    }) ?? null,
    fallbacks: tensors.filter(({ calibration }) => calibration?.fallback !== undefined)
      .map(({ name }) => name),
    warnings: Object.fromEntries(
      [...Map.groupBy(facts.warnings, ({ code }) => code)].map(([code, { length }]) =>
        [code, length] as const
      ),
    ),
  };
}

/** What of a record is known before the run. */
const PLANNED = [
  ...["generator", "recipe", "format", "calibrate_on", "propagate", "calibration", "evaluation"],
  ...["source_bytes", "total_bytes"],
] as (keyof RunRecord)[];

/** The first key in which a record is not what a run of a plan would write; undefined if it is. */
export function differenceFrom(
  found: RunRecord,
  plan: Plan,
  texts: Pick<RecordFacts, "calibration" | "evaluation">,
): string | undefined {
  const facts = { command: undefined, card: undefined, energyTable: undefined, device: "" };
  const own = recordOf(plan, { ...facts, ...texts, tensors: [], scores: {}, warnings: [] });
  const text = (value: unknown) => JSON.stringify(value, plainNumbers);
  const other = PLANNED.find((key) => text(own[key]) !== text(found[key]));
  return other ?? (own.model.id === found.model.id ? undefined : "model");
}

/** Whether a source is a commit of a repository, whose bytes never change. */
export function isPinned({ id }: Plan["source"]): boolean {
  return /^[^/\s]+\/[^/\s]+@[0-9a-f]{40}$/.test(id);
}

/** A record as the file that holds it; infinities and NaN, which JSON has no word for, are text. */
export function recordSidecar(record: RunRecord): Sidecar {
  // Raw breaks of lines are in no text of JSON, only between its items.
  const text = JSON.stringify(record, plainNumbers, 2)
    .replace(/\[\n[-+.\deE,\snul]+\]/g, (numbers) => numbers.replace(/\s+/g, " "));
  const bytes = new TextEncoder().encode(`${text}\n`);
  return { path: RECORD_FILE, size: bytes.length, bytes };
}

function recordedCard(card: SourceCard): RecordedCard {
  return {
    license: card.license ?? null,
    license_name: card.licenseName ?? null,
    license_link: card.licenseLink ?? null,
    language: card.language ?? null,
    pipeline_tag: card.pipelineTag ?? null,
    conversational: card.tags.includes("conversational"),
    gate: card.gate,
  };
}

/**
 * How a weight's codes were chosen: by its methods, or by rounding to nearest where the last of
 * them could not do it.
 */
function methodOf({ method = "", calibration }: TensorReport): string {
  return calibration?.fallback === undefined ? method : method.replace(/[^+]*$/, "rtn");
}

function storedBy({ files }: Plan): RunRecord["stored"] {
  const tensors = files.flatMap(({ tensors }) => tensors);
  return { tensors: tensors.length, bytes: sum(tensors, byteLength) };
}

/** How often each name is there, the most frequent first. */
export function counted(names: readonly string[]): Counted[] {
  return [...Map.groupBy(names, (name) => name)]
    .map(([name, { length: weights }]) => ({ name, weights }))
    .sort((a, b) => b.weights - a.weights);
}

/** Windows as a record has them. */
export function recordedWindows(
  { windows, seqLen }: WindowsRequest,
  text: Partial<TextFacts> | undefined,
): RecordedWindows {
  return {
    corpus: text?.corpus ?? null,
    windows,
    available: text?.available ?? null,
    seq_len: seqLen,
    tokens: windows * seqLen,
    seed: text?.seed ?? null,
    sha256: text?.sha256 ?? null,
  };
}
