/**
 * A worker of many: does units of a plan that are not done, into a place where all meet, in any
 * number and whenever they come. Units without calibration do not depend on each other; blocks that
 * are calibrated on the original's hidden states (`calibrate-on float`) depend only on those, which
 * one worker writes for all (on_float.ts) or, where a place takes no states, each makes for itself;
 * blocks that are calibrated on the quantized model's are done by all together (in_shards.ts).
 */
import { quote, RequestError, UnsupportedError } from "../errors.ts";
import { originalWeights } from "../forward/weights.ts";
import type { Plan } from "../plan/planned.ts";
import { isInShards } from "../plan/shared.ts";
import { isBlock } from "../plan/tasks.ts";
import { type Event, StepCounter, type Warning } from "../report.ts";
import { Trace } from "../trace.ts";
import { openCalibration } from "./calibrated.ts";
import { type DoneUnit, type SharedOptions, started } from "./context.ts";
import { FloatWorker } from "./on_float.ts";
import { ShardWorker } from "./in_shards.ts";
import type { MeetingPlace, Share } from "./meeting_place.ts";
import { performStored, walkPast, type Work } from "./shared_unit.ts";

/** What a worker was asked to do. */
export interface WorkOptions extends Omit<SharedOptions, "evaluation" | "saveShare">, Share {
  readonly folder: MeetingPlace;
}

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
 *
 * @param place Whether workers can do a block together there; see `MeetingPlace.together`.
 */
export function isShareable(
  plan: Plan,
  { together }: { readonly together: boolean },
): true | string {
  if (plan.evaluation) {
    return "it is measured in the same pass, which is one machine's. Leave out `evaluate`, and " +
      "measure what was merged";
  }
  if (isInShards(plan) && plan.recipe.calibrationShards === 1) {
    return "each block is calibrated on what the quantized blocks before it give. Give " +
      "`calibration-shards`, as many as workers or more, by which they share the windows; or " +
      "`calibrate-on` float, which makes blocks independent; or `method` rtn";
  }
  if (isInShards(plan) && !together) {
    return "workers that calibrate each block together, each on its shards of the windows, " +
      "exchange more than a repository takes. Give `work-dir` a folder that all reach; or " +
      "`calibrate-on` float, which makes blocks independent; or `method` rtn";
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
  const shareable = isShareable(plan, { together: folder.together !== undefined });
  if (shareable !== true) {
    throw new UnsupportedError(`Cannot share the plan among machines: ${shareable}.`, {
      what: "work-dir",
      reason: shareable,
    });
  }
  const { signal, source, backend } = given;
  const { units } = plan;
  const inShards = isInShards(plan);
  // One that is alone on the original's states has them in memory.
  const together = inShards || plan.calibration && count > 1 ? folder.together : undefined;
  const isApart = (unit: number) => !together || !isBlock(units[unit]!);
  const warnings: Warning[] = [];
  const report = (event: Event) => {
    if (event.type === "warning") warnings.push({ code: event.code, message: event.message });
    given.report?.(event);
  };
  const counter = new StepCounter(report);
  const trace = new Trace({ ...given, traffic: () => backend.traffic });
  const original = originalWeights(source);
  const common = { plan, given, report, trace, original, warnings };
  report(started([plan], { source, backend, counter }));
  const did: string[] = [];
  // What each does alone, and then what all do together.
  for await (const turn of folder.turns({ index, count })) {
    const wanted = new Set(turn.filter(isApart));
    if (wanted.size > 0) {
      await using calibration = together
        ? undefined
        : openCalibration(plan, { ...given, report }, counter);
      did.push(...await pass({ ...common, calibration }, { folder, wanted }));
    }
    signal?.throwIfAborted();
    if (!together || (await folder.undone()).every(isApart)) continue;
    const place = { folder: together, index, count, signal };
    await using shards = inShards ? await ShardWorker.open(plan, place) : undefined;
    await using calibration = openCalibration(plan, { ...given, report }, counter, {
      exchange: shards,
    })!;
    const work = { ...common, calibration };
    did.push(...await (shards ?? new FloatWorker(plan, place)).blocks(work));
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
  work: Work,
  { folder, wanted }: { readonly folder: MeetingPlace; readonly wanted: ReadonlySet<number> },
): Promise<string[]> {
  const last = Math.max(...wanted);
  const did: string[] = [];
  for (const [i, unit] of work.plan.units.entries()) {
    if (i > last) break;
    work.given.signal?.throwIfAborted();
    await using lease = wanted.has(i) ? await folder.lease(i) : undefined;
    // Whether it is done is known only once nobody else is at it.
    if (lease && !await folder.done(i)) {
      await performStored(i, folder, work);
      did.push(unit.name);
    } else if (i < last) await walkPast(unit, work);
  }
  return did;
}
