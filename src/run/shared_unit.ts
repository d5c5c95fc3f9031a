/** A unit of a plan that machines share, done by one of them. */
import type { Scope } from "../backend.ts";
import type { Calibration } from "../calibration/pass.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import type { ModelWeights } from "../forward/weights.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Unit } from "../plan/tasks.ts";
import type { TensorReport, Warning } from "../report.ts";
import type { Sink } from "../sink.ts";
import { openNowhere } from "../sinks/nowhere.ts";
import { byteLength, sum } from "../tensor.ts";
import { calibrateBlocks } from "./calibrated.ts";
import type { Context, SharedOptions } from "./context.ts";
import type { MeetingPlace } from "./meeting_place.ts";
import { Output } from "./output.ts";
import { ReadAhead, type Together } from "./read_ahead.ts";
import { performStep, stepOf } from "./unit.ts";

/** What all units that one worker does share. */
export interface Work extends Pick<Context, "plan" | "report" | "trace"> {
  readonly given: Omit<SharedOptions, "evaluation" | "saveShare">;
  /** What was warned of so far. */
  readonly warnings: readonly Warning[];
  readonly calibration: Calibration | undefined;
  readonly original: ModelWeights;
  /** Windows need not go past the unit at hand. */
  readonly stay?: boolean;
}

/** What is shared where blocks are calibrated. */
export interface Calibrating extends Work {
  readonly calibration: Calibration;
}

/** Do a unit, and store it where workers meet. */
export async function performStored(
  index: number,
  folder: MeetingPlace,
  work: Work,
): Promise<void> {
  const { plan, warnings, given: { source } } = work;
  const unit = plan.units[index]!;
  const known = warnings.length;
  await using writer = await folder.gather(index, { files: plan.files, size: unitBytes(unit) });
  const tensors = await performUnit(unit, work, writer);
  await source.verified?.();
  const { name } = unit;
  const { key } = folder.job;
  await writer.finish({ unit: 1, key, name, tensors, warnings: warnings.slice(known) });
}

/** Do a unit into a sink, nowhere unless given; what became of its tensors. */
export async function performUnit(
  unit: Unit,
  work: Work,
  sink: Sink = NOWHERE,
): Promise<TensorReport[]> {
  const { plan, calibration, trace, original, stay } = work;
  trace.enter(unit.name);
  const tensors: TensorReport[] = [];
  const { reads } = stepOf([{ plan, unit }]);
  await inContext(work, { sink, reads, tensors }, async (context) => {
    const step = stepOf([{ plan, unit, context, calibration }]);
    await performStep(step, { original, scope: context.scope, stay });
    await context.output.flush();
  });
  return tensors;
}

/** Send the windows, if there are some, through what others do. */
export async function walkPast({ place }: Unit, work: Work): Promise<void> {
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
