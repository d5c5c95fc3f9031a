/**
 * What a run keeps so that it can go on after it was stopped, and how it goes on: a journal says
 * what was finished, the carry is what the units to come need of those before. Both are saved at
 * the end of a unit, once so much was done since that saving is a small share of it: a kill loses
 * no more than some fifty times what saving takes, and the unit at hand.
 */
import type { Carried } from "../carry.ts";
import { DeviceError, HubError, quote, RequestError, SpaceError } from "../errors.ts";
import type { Distribution } from "../metrics/distribution.ts";
import type { Plan } from "../plan/planned.ts";
import type { Unit } from "../plan/tasks.ts";
import type { Reporter, StepCounter, TensorReport, Warning } from "../report.ts";
import type { CarryFile, Resumption } from "../sink.ts";
import type { TensorSource, Unchecked } from "../source.ts";
import { byteLength, sum } from "../tensor.ts";
import type { Trace } from "../trace.ts";
import type { PlannedOutput, SharedOptions } from "./context.ts";
import {
  type FinishedUnit,
  type JournalHead,
  type JournalRetraction,
  type JournalSave,
  readRecords,
} from "./journal_records.ts";
import { changesOf, ingredientsOf, keyOf } from "./key.ts";
import type { Output } from "./output.ts";

/** The share of a run's time that saving may take, unless something else is asked for. */
export const SAVE_SHARE = 0.02;

/**
 * Seconds that a save is taken to need, and seconds for each byte of the carry, before one was
 * made: what is over in a few seconds is not saved at all.
 */
const FIRST_SAVE = { seconds: 0.1, perByte: 1 / 500e6 };

/** The carry could not be written: nothing else is the worse for it. */
class CarryError extends SpaceError {
  constructor(cause: SpaceError) {
    super(cause.message, { path: cause.path, cause });
  }
}

/** What an output of a run is made of that goes on from unit to unit. */
export interface RunState {
  readonly output: Output;
  readonly tensors: TensorReport[];
  readonly distributions: Map<string, Distribution> | undefined;
  readonly warnings: Warning[];
  /** What has a carry: what measures, and what calibrates. */
  readonly streams: Carried | undefined;
  readonly calibration: Carried | undefined;
}

/** What all outputs of a run share, of which saves take notice. */
interface Shared {
  readonly trace: Trace;
  readonly counter: StepCounter;
}

/** What is known of one output of a run. */
interface Kept {
  readonly plan: Plan;
  readonly resumption: Resumption;
  readonly finished: readonly FinishedUnit[];
  readonly carry: CarryFile | null;
  /** What these were made of, as far as nobody has compared it yet. */
  readonly unchecked: readonly Unchecked[];
  /** Units that are finished and saved, by an earlier run or by this one. */
  saved: number;
  unsaved: FinishedUnit[];
}

/** An output of a run that is at a unit. */
export interface SavedPart {
  /** Which output it is, from 0. */
  readonly index: number;
  readonly unit: Unit;
  readonly state: RunState;
}

/**
 * The saves of one run: of all its outputs, each into its own place, after the same units. An
 * output whose last save came to be when another's did not is ahead by some units, and waits.
 */
export class Saves implements Disposable {
  readonly #kept: readonly Kept[];
  readonly #source: TensorSource;
  readonly #share: number;
  readonly #asked: AbortSignal | undefined;
  readonly #stop: AbortController;
  /** Whether the carry is as it was when the last unit was finished. */
  #intact = true;
  #seconds: number | undefined;
  #since = performance.now();
  readonly #report: Reporter | undefined;
  /** Whether it was said that there is no room for saves. */
  #told = false;

  private constructor(kept: readonly Kept[], given: SharedOptions) {
    this.#kept = kept;
    this.#source = given.source;
    this.#source.recheck?.(kept.flatMap(({ unchecked }) => unchecked));
    this.#report = given.report;
    this.#share = given.saveShare ?? SAVE_SHARE;
    this.#asked = given.signal;
    this.#stop = given.halt ?? new AbortController();
    if (this.#asked?.aborted) this.#onAbort();
    this.#asked?.addEventListener("abort", this.#onAbort);
  }

  /**
   * The saves of a run into sinks that have a resumption; undefined where none has.
   *
   * @throws {RequestError} what was begun there is another run.
   * @throws {RangeError} some have one, and some do not.
   */
  static async open(
    outputs: readonly PlannedOutput[],
    given: SharedOptions,
  ): Promise<Saves | undefined> {
    const able = outputs.filter(({ sink }) => sink.resumption);
    if (able.length === 0) return undefined;
    if (able.length < outputs.length) {
      throw new RangeError("Cannot run: of all outputs or of none it must be possible to go on");
    }
    return new Saves(await Array.fromAsync(outputs, (output) => openKept(output, given)), given);
  }

  /** Aborted when the run is to stop at once: not before what it has finished is saved. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** How many units of an output an earlier run has finished. */
  finished(index: number): number {
    return this.#kept[index]!.finished.length;
  }

  /**
   * Put every output where an earlier run was after its last save, before its first unit; those
   * that are behind come last, because what outputs share is to be where they are.
   *
   * @throws {RequestError} what that has written is not there any more.
   */
  async restore(
    states: readonly RunState[],
    { counter }: Shared,
  ): Promise<{ readonly bytes: number; readonly windows: number }> {
    const order = [...this.#kept.keys()].sort((a, b) => this.finished(b) - this.finished(a));
    for (const index of order) await this.#restore(this.#kept[index]!, states[index]!);
    const windows = Math.min(...this.#kept.map(({ finished }) => finished.at(-1)?.windows ?? 0));
    counter.resume(windows);
    const tasks = this.#kept.flatMap(({ plan, finished }) =>
      plan.units.slice(0, finished.length).flatMap(({ tasks }) => tasks)
    );
    return { bytes: sum(tasks, ({ source }) => byteLength(source)), windows };
  }

  async #restore(kept: Kept, state: RunState): Promise<void> {
    const { finished: units, carry, resumption } = kept;
    await state.output.takeOver(units.flatMap(({ pieces }) => pieces));
    if (units.length === 0) return;
    for (const { tensors, distributions, warnings } of units) {
      state.tensors.push(...tensors);
      state.warnings.push(...warnings);
      for (const [name, distribution] of distributions) {
        state.distributions?.set(name, distribution);
      }
    }
    const carried = carriedOf(kept, state);
    if (carried.length === 0) return;
    if (!carry) throw new RangeError("Cannot go on: the journal names no carry");
    await resumption.readCarry(carry, async (from) => {
      for (const part of carried) await part.restore(from);
    });
  }

  /** Do a unit of some outputs, and save once that is due. */
  async unit(
    parts: readonly SavedPart[],
    shared: Shared,
    work: () => Promise<void>,
  ): Promise<void> {
    const before = parts.map(({ state: { tensors, warnings, distributions } }) => ({
      tensors: tensors.length,
      warnings: warnings.length,
      distributions: distributions?.size ?? 0,
    }));
    const intact = parts.every(({ index, state }) =>
      carriedOf(this.#kept[index]!, state).length === 0
    );
    await this.#stoppable(parts, shared, { intact, work });
    for (const [i, { index, unit, state }] of parts.entries()) {
      const known = before[i]!;
      this.#kept[index]!.unsaved.push({
        name: unit.name,
        pieces: state.output.takePieces(),
        tensors: state.tensors.slice(known.tensors),
        distributions: [...state.distributions ?? []].slice(known.distributions),
        warnings: state.warnings.slice(known.warnings),
        windows: shared.counter.done,
      });
    }
    if (this.#asked?.aborted) await this.#save(parts, shared);
    else if (this.#due()) await this.#tryToSave(parts, shared);
    this.#asked?.throwIfAborted();
  }

  /** Save, or where there is no room for it go on without, until the next save is due. */
  async #tryToSave(parts: readonly SavedPart[], shared: Shared): Promise<void> {
    try {
      await this.#save(parts, shared);
    } catch (error) {
      if (!(error instanceof CarryError)) throw error;
      this.#since = performance.now();
      if (this.#told) return;
      this.#told = true;
      this.#report?.({
        type: "warning",
        code: "not-saved",
        message: `What this run goes on with after a stop could not be saved: ${error.message} ` +
          "It works on, and tries again; a stop loses what was done since the last save.",
      });
    }
  }

  /** Do what comes after all units, which changes nothing that is carried. */
  async rest<T>(
    parts: readonly Omit<SavedPart, "unit">[],
    shared: Shared,
    work: () => Promise<T>,
  ): Promise<T> {
    return await this.#stoppable(parts, shared, {
      intact: true,
      work: async () => {
        const result = await work();
        this.#asked?.throwIfAborted();
        return result;
      },
    });
  }

  [Symbol.dispose](): void {
    this.#asked?.removeEventListener("abort", this.#onAbort);
  }

  get #isSaved(): boolean {
    return this.#kept.every(({ unsaved }) => unsaved.length === 0);
  }

  /** Do what may be stopped at once if all that is finished is saved, or can be then. */
  async #stoppable<T>(
    parts: readonly Omit<SavedPart, "unit">[],
    shared: Shared,
    { intact, work }: { readonly intact: boolean; readonly work: () => Promise<T> },
  ): Promise<T> {
    this.#intact = intact;
    try {
      return await work();
    } catch (error) {
      if (isInDoubt(error)) await this.#retract(error);
      else if (intact && this.#asked?.aborted && !this.#isSaved) {
        // What the unit at hand has written is none of a finished one.
        for (const { state } of parts) state.output.takePieces();
        await this.#save(parts, shared);
      }
      throw error;
    }
  }

  /** What is saved is in doubt: nobody is to go on with it. */
  async #retract({ message }: Error): Promise<void> {
    const record: JournalRetraction = { at: new Date().toISOString(), retracted: message };
    for (const kept of this.#kept) {
      if (kept.saved === 0) continue;
      await kept.resumption.append(record);
      kept.saved = 0;
    }
  }

  readonly #onAbort = (): void => {
    if (this.#intact || this.#isSaved) this.#stop.abort(this.#asked!.reason);
  };

  #due(): boolean {
    const { seconds, perByte } = FIRST_SAVE;
    const carried = sum(this.#kept, ({ plan }) => plan.carryBytes / 2);
    const took = this.#seconds ?? seconds + carried * perByte;
    return performance.now() - this.#since >= 1000 * took / this.#share;
  }

  async #save(
    parts: readonly Omit<SavedPart, "unit">[],
    { trace }: Shared,
  ): Promise<void> {
    using _ = trace.begin("write");
    const begun = performance.now();
    for (const { index, state } of parts) await saveOne(this.#kept[index]!, state, this.#source);
    this.#since = performance.now();
    this.#seconds = (this.#since - begun) / 1000;
  }
}

/** Whether what was done before may be wrong: it was made of other bytes, or by a wrong device. */
function isInDoubt(error: unknown): error is Error {
  return error instanceof HubError && error.kind === "damaged" ||
    error instanceof DeviceError && error.kind === "wrong";
}

/** What a journal knows of an output; begun where there is none. */
async function openKept(
  { plan, sink, command }: PlannedOutput,
  given: SharedOptions,
): Promise<Kept> {
  const { label } = sink;
  const resumption = sink.resumption!;
  const ingredients = await ingredientsOf(plan, given);
  const key = await keyOf(ingredients);
  const nothing = {
    plan,
    resumption,
    finished: [],
    carry: null,
    unchecked: [],
    saved: 0,
    unsaved: [],
  };
  if (resumption.records.length === 0) {
    const head: JournalHead = {
      journal: 1,
      key,
      ingredients,
      command: command ?? null,
      units: plan.units.map(({ name }) => name),
      bytes: plan.totalBytes,
    };
    await resumption.append(head);
    return nothing;
  }
  const known = readRecords(resumption.records);
  if (known?.head.key !== key) {
    const found = known ? changesOf(known.head.ingredients, ingredients) : [];
    throw new RequestError(
      `Cannot go on with ${quote(label)}: what was begun there is another run${
        found.length > 0 ? `: ${found.slice(0, 3).join("; ")}` : ""
      }${found.length > 3 ? ` (and ${found.length - 3} more)` : ""}. ` +
        "Repeat its command, or begin anew with `restart`.",
    );
  }
  const finished = known.saves.flatMap(({ units }) => units);
  const { carry = null, unchecked = [] } = known.saves.at(-1) ?? {};
  return { ...nothing, finished, carry, unchecked, saved: finished.length };
}

/** What the units to come of an output need of those before. */
function carriedOf({ plan, saved, unsaved }: Kept, { streams, calibration }: RunState): Carried[] {
  const done = saved + unsaved.length;
  const left = plan.units.slice(done).some(({ place }) => typeof place === "number");
  return [streams, left ? calibration : undefined].filter((part) => part !== undefined);
}

async function saveOne(kept: Kept, state: RunState, source: TensorSource): Promise<void> {
  const { resumption, unsaved } = kept;
  await state.output.flush();
  const unchecked = source.unchecked?.();
  const carried = carriedOf(kept, state);
  const carry = carried.length === 0 ? undefined : await resumption.saveCarry(
    async (to) => {
      for (const part of carried) await part.save(to);
    },
  ).catch((error) => {
    throw error instanceof SpaceError ? new CarryError(error) : error;
  });
  const save: JournalSave = {
    at: new Date().toISOString(),
    units: unsaved,
    carry: carry ?? null,
    ...(unchecked && unchecked.length > 0 ? { unchecked } : {}),
  };
  await resumption.append(save);
  kept.saved += unsaved.length;
  kept.unsaved = [];
  await resumption.keepCarry(carry);
}
