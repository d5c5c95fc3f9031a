/** Runs that are stopped, and go on: of a small model, into one folder. */
import assert from "node:assert/strict";
import type { Backend } from "../src/backend.ts";
import type { CalibrationInput } from "../src/calibration/input.ts";
import type { EvaluationInput } from "../src/forward/streams.ts";
import { type Disk, disk as machine } from "../src/io/disk.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import type { Event } from "../src/report.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run } from "../src/run.ts";
import type { Resumption, Sink } from "../src/sink.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import type { TensorSource } from "../src/source.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { bytesOf } from "./run_given.ts";

/** What is to be done. */
export interface Work {
  readonly model: string;
  /** Opens the model where it is no folder. */
  readonly open?: (model: string) => Promise<TensorSource>;
  readonly options: Readonly<Record<string, string | number | boolean>>;
  readonly backend: Backend;
  readonly out: string;
  readonly evaluation?: EvaluationInput;
  readonly calibration?: CalibrationInput;
}

/** How it is done this time. */
export interface Attempt {
  readonly resume?: boolean;
  readonly restart?: boolean;
  readonly overwrite?: boolean;
  readonly disk?: Disk;
  readonly signal?: AbortSignal;
  readonly halt?: AbortController;
  readonly saveShare?: number;
  readonly report?: (event: Event) => void;
  /** What becomes of the place where the run keeps what it needs to go on. */
  readonly change?: (resumption: Resumption) => Partial<Resumption>;
  /** What sends the files elsewhere while they are made. */
  readonly alongside?: (sink: Sink) => AsyncDisposable & { readonly sink: Sink };
}

/** Why a run was stopped on purpose. */
export class Stop extends Error {
  override readonly name = "Stop";
}

/** Do it, saving after every unit unless something else is said. */
export async function attempt(
  { model, open = openCheckpoint, options, backend, out, evaluation, calibration }: Work,
  {
    resume = true,
    restart = false,
    overwrite = false,
    disk = machine,
    change,
    alongside,
    ...given
  }: Attempt = {},
): Promise<RunReport> {
  await using source = await open(model);
  const request = (input: EvaluationInput) =>
    requestOf({ ...input, seqLen: input.windows[0]!.length });
  const work = plan(recipeFromOptions(options), source, {
    device: backend,
    ...(evaluation ? { evaluation: request(evaluation) } : {}),
    ...(calibration ? { calibration: request(calibration) } : {}),
    resume,
  });
  await using opened = await openFolderSink(out, {
    resume,
    restart,
    overwrite,
    disk,
    report: given.report ?? (() => {}),
  });
  const { resumption } = opened;
  assert.equal(resumption !== undefined, resume);
  const sink: Sink = resumption && change
    ? { ...opened, resumption: { ...resumption, ...change(resumption) } }
    : opened;
  await using sending = alongside?.(sink);
  return await run(work, {
    source,
    backend,
    sink: sending?.sink ?? sink,
    metrics: true,
    distributions: true,
    saveShare: Infinity,
    ...given,
    ...(evaluation ? { evaluation } : {}),
    ...(calibration ? { calibration } : {}),
  });
}

/** Have a run stop once it was saved so many times. */
export function stopAfter(saves: number): Pick<Attempt, "change"> {
  let left = saves;
  return {
    change: (resumption) => ({
      async keepCarry(file) {
        await resumption.keepCarry(file);
        if (--left === 0) throw new Stop();
      },
    }),
  };
}

/** Everything that came of a run, but for times: to be compared. */
export async function outcomeOf(out: string, report: RunReport): Promise<object> {
  const { tensors, scores, tokens, streamErrors, distributions, warnings, record } = report;
  return {
    bytes: await bytesOf(out),
    written: JSON.parse(await Deno.readTextFile(`${out}/sluice.json`)) as unknown,
    record,
    tensors,
    scores,
    tokens,
    streamErrors,
    distributions: [...distributions],
    warnings,
  };
}

/** Stop a run after each of its saves in turn, each time in a run that goes on; how often. */
export async function interruptEverywhere(
  work: Work,
  given: Attempt = {},
): Promise<{ readonly report: RunReport; readonly stops: number }> {
  for (let stops = 0;; stops++) {
    const resumed: number[] = [];
    const report = (event: Event) => event.type === "resumed" && resumed.push(event.units);
    try {
      return { report: await attempt(work, { ...given, ...stopAfter(1), report }), stops };
    } catch (error) {
      if (!(error instanceof Stop)) throw error;
    }
    assert.deepEqual(resumed, stops === 0 ? [] : [stops]);
  }
}

/** Stop a run after so many saves. */
export async function interrupt(work: Work, saves: number, given: Attempt = {}): Promise<void> {
  await assert.rejects(attempt(work, { ...given, ...stopAfter(saves) }), Stop);
}
