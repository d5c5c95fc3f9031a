/**
 * A worker of many: does units of a plan that are not done, into a place where all meet, in any
 * number and whenever they come. Units without calibration do not depend on each other; blocks that
 * are calibrated on the original's hidden states (`calibrate-on float`) depend only on those, and a
 * worker sends the windows through the blocks of others as they were.
 */
import type { Scope } from "../backend.ts";
import type { Calibration } from "../calibration/pass.ts";
import { quote, RequestError, UnsupportedError } from "../errors.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import { type ModelWeights, originalWeights } from "../forward/weights.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Plan } from "../plan/planned.ts";
import type { Unit } from "../plan/tasks.ts";
import { type Event, StepCounter, type TensorReport, type Warning } from "../report.ts";
import type { Sink } from "../sink.ts";
import { openNowhere } from "../sinks/nowhere.ts";
import { byteLength, sum } from "../tensor.ts";
import { Trace } from "../trace.ts";
import { calibrateBlocks, openCalibration } from "./calibrated.ts";
import { type Context, type DoneUnit, type SharedOptions, started } from "./context.ts";
import type { MeetingPlace, Share } from "./meeting_place.ts";
import { Output } from "./output.ts";
import { ReadAhead, type Together } from "./read_ahead.ts";
import { performStep, stepOf } from "./unit.ts";

/** What a worker was asked to do. */
export interface WorkOptions extends Omit<SharedOptions, "evaluation" | "saveShare">, Share {
  readonly folder: MeetingPlace;
}

/** What all units are done with. */
type Given = Omit<WorkOptions, "folder" | keyof Share>;

/** What a worker did. */
export interface Worked {
  /** Units that it did itself. */
  readonly did: readonly string[];
  /** Units that others are at. */
  readonly left: readonly string[];
}

/**
 * Why a plan cannot be shared among machines, or `true`. The reason continues a sentence after the
 * plan.
 */
export function isShareable({ calibration, evaluation, recipe }: Plan): true | string {
  if (evaluation) {
    return "it is measured in the same pass, which is one machine's. Leave out `evaluate`, and " +
      "measure what was merged";
  }
  if (calibration && recipe.calibrateOn !== "float") {
    return "each block is calibrated on what the quantized blocks before it give. Give " +
      "`calibrate-on` float, which makes blocks independent, or `method` rtn";
  }
  return true;
}

/**
 * Do units until all are done or others are at them.
 *
 * @throws {UnsupportedError} the plan cannot be shared.
 * @throws what `run` throws.
 */
export async function work(
  plan: Plan,
  { folder, index, count, ...given }: WorkOptions,
): Promise<Worked> {
  const shareable = isShareable(plan);
  if (shareable !== true) {
    throw new UnsupportedError(`Cannot share the plan among machines: ${shareable}.`, {
      what: "work-dir",
      reason: shareable,
    });
  }
  const { signal } = given;
  const did: string[] = [];
  for await (const wanted of folder.turns({ index, count })) {
    did.push(...await pass(plan, { folder, wanted: new Set(wanted), given }));
    signal?.throwIfAborted();
  }
  const left = await folder.undone();
  return { did, left: left.map((unit) => plan.units[unit]!.name) };
}

/**
 * What all units came to, for a run that puts them together (`RunOptions.units`).
 *
 * @throws {RequestError} some are not done, or their bytes are not those that were written.
 */
export async function* doneUnits(plan: Plan, folder: MeetingPlace): AsyncGenerator<DoneUnit> {
  const open = await folder.undone();
  if (open.length > 0) {
    const names = open.slice(0, 3).map((unit) => plan.units[unit]!.name).join(", ");
    throw new RequestError(
      `Cannot merge: ${open.length} of ${plan.units.length} units are not done (${names}${
        open.length > 3 ? ", …" : ""
      }). Have a worker do them: sluice work ${quote(folder.path)}`,
    );
  }
  for (const i of plan.units.keys()) {
    const stored = (await folder.done(i))!;
    yield { ...stored, pieces: folder.pieces(i, stored) };
  }
  await folder.sweep();
}

/** Go through the units once, in order, and do those that are wanted and nobody is at. */
async function pass(
  plan: Plan,
  { folder, wanted, given }: {
    readonly folder: MeetingPlace;
    readonly wanted: ReadonlySet<number>;
    readonly given: Given;
  },
): Promise<string[]> {
  const { source, backend, signal } = given;
  const warnings: Warning[] = [];
  const report = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    given.report?.(event);
  };
  const counter = new StepCounter(report);
  await using calibration = openCalibration(plan, { ...given, report }, counter);
  const trace = new Trace({ ...given, traffic: () => backend.traffic });
  const last = Math.max(...wanted);
  report(started([plan], { source, backend, counter }));
  const did: string[] = [];
  const work: Work = { plan, given, report, trace, calibration, original: originalWeights(source) };
  for (const [i, unit] of plan.units.entries()) {
    if (i > last) break;
    signal?.throwIfAborted();
    await using lease = wanted.has(i) ? await folder.lease(i) : undefined;
    // Whether it is done is known only once nobody else is at it.
    if (lease && !await folder.done(i)) {
      const known = warnings.length;
      await using writer = await folder.gather(i, { files: plan.files, size: unitBytes(unit) });
      const tensors = await perform(unit, work, writer);
      await source.verified?.();
      const { name } = unit;
      const { key } = folder.job;
      await writer.finish({ unit: 1, key, name, tensors, warnings: warnings.slice(known) });
      did.push(name);
    } else if (i < last) await walkPast(unit, work);
  }
  return did;
}

/** What all units of a pass share. */
interface Work extends Pick<Context, "plan" | "report" | "trace"> {
  readonly given: Given;
  readonly calibration: Calibration | undefined;
  readonly original: ModelWeights;
}

/** Do a unit into a sink; what became of its tensors. */
async function perform(unit: Unit, work: Work, sink: Sink): Promise<TensorReport[]> {
  const { plan, calibration, trace, original } = work;
  trace.enter(unit.name);
  const tensors: TensorReport[] = [];
  const { reads } = stepOf([{ plan, unit }]);
  await inContext(work, { sink, reads, tensors }, async (context) => {
    const step = stepOf([{ plan, unit, context, calibration }]);
    await performStep(step, { original, scope: context.scope });
    await context.output.flush();
  });
  return tensors;
}

/** Send the windows, if there are some, through what others do. */
async function walkPast({ place }: Unit, work: Work): Promise<void> {
  const { plan, calibration, original } = work;
  if (!calibration) return;
  if (place === "embedding") return await calibration.embed(original);
  if (typeof place !== "number") return;
  const graph = graphsOf(plan.model!)[place]!;
  await inContext(work, { sink: NOWHERE, reads: [], tensors: [] }, async (context) => {
    const { trace, scope } = context;
    const loaded = await trace.time("load", () => LoadedBlock.load(graph, original, { scope }));
    const part = { unit: { tasks: [] }, context, calibration };
    await calibrateBlocks(graph, [part], { last: false, original, loaded });
  });
}

/** Do something in the context of one unit, which holds a scope, too. */
async function inContext(
  { plan, given, report, trace }: Work,
  { sink, reads: wanted, tensors }: {
    readonly sink: Sink;
    readonly reads: readonly Together[];
    readonly tensors: TensorReport[];
  },
  act: (context: Context & { readonly scope: Scope }) => Promise<void>,
): Promise<void> {
  const { source, backend } = given;
  using scope = backend.scope();
  await using output = new Output(plan.files, { sink, report, trace });
  await using reads = new ReadAhead(wanted, { source, backend, trace });
  const own = { plan, report, trace, output, reads, tensors, distributions: undefined, scope };
  await act({ ...given, ...own, packed: new Map() });
}

/** Bytes that a unit writes. */
export function unitBytes({ tasks }: Unit): number {
  return sum(tasks, (task) => task.kind === "drop" ? 0 : sum(task.outputs, byteLength));
}

/** Where what is not kept goes. */
const NOWHERE = openNowhere();
