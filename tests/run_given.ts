/**
 * Quantizing small checkpoints in a test: a run from options to a folder, what came of it, and
 * devices with habits.
 */
import { join } from "node:path";
import type { Backend } from "../src/backend.ts";
import type { CalibrationInput } from "../src/calibration/input.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { RECORD_FILE } from "../src/io/names.ts";
import type { Event } from "../src/report.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run } from "../src/run.ts";
import type { TensorSource } from "../src/source.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { EvaluationInput } from "../src/forward/streams.ts";

/** A folder that is gone when the test ends. */
export async function folder(): Promise<AsyncDisposable & { path: string }> {
  const path = await Deno.makeTempDir();
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** What a run made. */
export interface Made {
  readonly out: string;
  readonly report: RunReport;
  readonly events: Event[];
}

/** Quantize a source's weights to NF4 into a new folder in `into`. */
export async function runOn(
  source: TensorSource,
  { backend, into }: { readonly backend: Backend; readonly into: string },
): Promise<Pick<Made, "out" | "report">> {
  const out = join(into, `out-${crypto.randomUUID()}`);
  const work = plan(recipeFromOptions({ scheme: "NF4" }), source, { device: backend });
  await using sink = await openFolderSink(out);
  return { out, report: await run(work, { source, backend, sink }) };
}

/** Quantize a checkpoint into a new folder in `into`. */
export async function quantize(
  model: string,
  options: Record<string, unknown>,
  { backend, into, ignore, evaluation, calibration, signal }: {
    backend: Backend;
    into: string;
    ignore?: readonly string[];
    evaluation?: EvaluationInput;
    calibration?: CalibrationInput;
    signal?: AbortSignal;
  },
): Promise<Made> {
  const out = join(into, `out-${crypto.randomUUID()}`);
  const events: Event[] = [];
  await using source = await openCheckpoint(model);
  const request = (input: EvaluationInput) =>
    requestOf({ ...input, seqLen: input.windows[0]!.length });
  const work = plan(recipeFromOptions(options, ignore), source, {
    device: backend,
    ...(evaluation ? { evaluation: request(evaluation) } : {}),
    ...(calibration ? { calibration: request(calibration) } : {}),
  });
  await using sink = await openFolderSink(out);
  const report = await run(work, {
    source,
    backend,
    sink,
    metrics: true,
    report: (event) => events.push(event),
    ...(evaluation ? { evaluation } : {}),
    ...(calibration ? { calibration } : {}),
    ...(signal ? { signal } : {}),
  });
  return { out, report, events };
}

/** The files of a checkpoint by name, as SHA-256; not its record. */
export async function bytesOf(path: string): Promise<Record<string, string>> {
  const files: Record<string, string> = {};
  const names = [...Deno.readDirSync(path)].map(({ name }) => name).sort();
  // The record tells of the device and of the model's name, too.
  for (const name of names.filter((name) => name !== RECORD_FILE)) {
    const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(join(path, name)));
    files[name] = new Uint8Array(digest).toHex();
  }
  return files;
}

/** Windows of tokens for the tiny model of 96 words. */
export function tinyWindows(count: number, seqLen: number): Uint32Array<ArrayBuffer>[] {
  return Array.from(
    { length: count },
    (_, w) => Uint32Array.from({ length: seqLen }, (_, i) => (i * 7 + w * 31 + (i * i) % 5) % 96),
  );
}

/** A device that likes slices of a few rows. */
export function small(backend: Backend, sliceBytes: number): Backend {
  return withOwn(backend, { sliceBytes });
}

/** A device some of whose members are others, and whose scopes belong to it. */
export function withOwn(
  backend: Backend,
  own: { readonly [Name in keyof Backend]?: Backend[Name] | undefined },
): Backend {
  const changed: Backend = new Proxy(backend, {
    get: (target, key) => {
      if (key in own) return Reflect.get(own, key) as unknown;
      if (key === "scope") return () => ({ ...target.scope(), backend: changed });
      const value = Reflect.get(target, key) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return changed;
}
