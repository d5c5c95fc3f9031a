/**
 * What a run keeps so that it can go on after it was stopped, and how it goes on: a journal says
 * what was finished, the carry is what the units to come need of those before. Both are saved at
 * the end of a unit, once so much was done since that saving is a small share of it: a kill loses
 * no more than some fifty times what saving takes, and the unit at hand.
 */
import type { Carried } from "../carry.ts";
import { quote, RequestError } from "../errors.ts";
import type { Distribution } from "../metrics/distribution.ts";
import type { Plan } from "../plan/planned.ts";
import type { Unit } from "../plan/tasks.ts";
import type { StepCounter, TensorReport, Warning } from "../report.ts";
import type { CarryFile, Resumption } from "../sink.ts";
import { byteLength, sum } from "../tensor.ts";
import type { Trace } from "../trace.ts";
import type { RunOptions } from "./context.ts";
import { changesOf, type Ingredients, ingredientsOf, keyOf } from "./key.ts";
import type { Output, StoredPiece } from "./output.ts";

/** The journal's first record: of what run it is. */
export interface JournalHead {
  readonly journal: 1;
  readonly key: string;
  readonly ingredients: Ingredients;
  /** As others can repeat it. */
  readonly command: string | null;
  readonly units: readonly string[];
  readonly bytes: number;
}

/** A record for each save: units that were finished since the one before, and the carry then. */
export interface JournalSave {
  readonly at: string;
  readonly units: readonly FinishedUnit[];
  readonly carry: CarryFile | null;
}

/** What came of a unit. */
export interface FinishedUnit {
  readonly name: string;
  readonly pieces: readonly StoredPiece[];
  readonly tensors: readonly TensorReport[];
  readonly distributions: readonly (readonly [name: string, distribution: Distribution])[];
  readonly warnings: readonly Warning[];
  /** Steps of windows that were counted by its end. */
  readonly windows: number;
}

/** The share of a run's time that saving may take, unless something else is asked for. */
export const SAVE_SHARE = 0.02;

/**
 * Seconds that a save is taken to need, and seconds for each byte of the carry, before one was
 * made: what is over in a few seconds is not saved at all.
 */
const FIRST_SAVE = { seconds: 0.1, perByte: 1 / 500e6 };

/** What a journal says. */
export function readRecords(
  records: readonly unknown[],
): { readonly head: JournalHead; readonly saves: readonly JournalSave[] } | undefined {
  const [head, ...rest] = records as readonly [JournalHead?, ...object[]];
  // Others note there what is theirs.
  const saves = rest.filter((record): record is JournalSave => "units" in record);
  return head?.journal === 1 ? { head, saves } : undefined;
}

/** What a run is made of that goes on from unit to unit. */
export interface RunState {
  readonly trace: Trace;
  readonly output: Output;
  readonly tensors: TensorReport[];
  readonly distributions: Map<string, Distribution> | undefined;
  readonly warnings: Warning[];
  readonly counter: StepCounter;
  /** What has a carry: what measures, and what calibrates. */
  readonly streams: Carried | undefined;
  readonly calibration: Carried | undefined;
}

/** The saves of one run. */
export class Saves implements Disposable {
  readonly #plan: Plan;
  readonly #resumption: Resumption;
  readonly #share: number;
  readonly #asked: AbortSignal | undefined;
  readonly #stop: AbortController;
  readonly #finished: readonly FinishedUnit[];
  readonly #carry: CarryFile | null;
  /** Units that are finished and saved, by an earlier run or by this one. */
  #saved: number;
  #unsaved: FinishedUnit[] = [];
  /** Whether the carry is as it was when the last unit was finished. */
  #intact = true;
  #seconds: number | undefined;
  #since = performance.now();

  private constructor(
    plan: Plan,
    { resumption, given, saves }: {
      readonly resumption: Resumption;
      readonly given: RunOptions;
      readonly saves: readonly JournalSave[];
    },
  ) {
    this.#plan = plan;
    this.#resumption = resumption;
    this.#share = given.saveShare ?? SAVE_SHARE;
    this.#asked = given.signal;
    this.#stop = given.halt ?? new AbortController();
    this.#finished = saves.flatMap(({ units }) => units);
    this.#carry = saves.at(-1)?.carry ?? null;
    this.#saved = this.#finished.length;
    if (this.#asked?.aborted) this.#onAbort();
    this.#asked?.addEventListener("abort", this.#onAbort);
  }

  /**
   * The saves of a run into a sink that has a resumption; undefined for others.
   *
   * @throws {RequestError} what was begun there is another run.
   */
  static async open(plan: Plan, given: RunOptions): Promise<Saves | undefined> {
    const { sink: { resumption, label } } = given;
    if (!resumption) return undefined;
    const ingredients = await ingredientsOf(plan, given);
    const key = await keyOf(ingredients);
    if (resumption.records.length === 0) {
      const head: JournalHead = {
        journal: 1,
        key,
        ingredients,
        command: given.command ?? null,
        units: plan.units.map(({ name }) => name),
        bytes: plan.totalBytes,
      };
      await resumption.append(head);
      return new Saves(plan, { resumption, given, saves: [] });
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
    return new Saves(plan, { resumption, given, saves: known.saves });
  }

  /** Aborted when the run is to stop at once: not before what it has finished is saved. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** How many units an earlier run has finished. */
  get finished(): number {
    return this.#finished.length;
  }

  /**
   * Put a run where an earlier one was after its last save, before its first unit.
   *
   * @throws {RequestError} what that has written is not there any more.
   */
  async restore(state: RunState): Promise<{ readonly bytes: number; readonly windows: number }> {
    const units = this.#finished;
    await state.output.takeOver(units.flatMap(({ pieces }) => pieces));
    for (const { tensors, distributions, warnings } of units) {
      state.tensors.push(...tensors);
      state.warnings.push(...warnings);
      for (const [name, distribution] of distributions) {
        state.distributions?.set(name, distribution);
      }
    }
    const { windows } = units.at(-1)!;
    state.counter.resume(windows);
    const carried = this.#carried(state, units.length);
    if (carried.length > 0) {
      if (!this.#carry) throw new RangeError("Cannot go on: the journal names no carry");
      await this.#resumption.readCarry(this.#carry, async (from) => {
        for (const part of carried) await part.restore(from);
      });
    }
    const tasks = this.#plan.units.slice(0, units.length).flatMap(({ tasks }) => tasks);
    return { bytes: sum(tasks, ({ source }) => byteLength(source)), windows };
  }

  /** Do a unit, and save once that is due. */
  async unit(unit: Unit, state: RunState, work: () => Promise<void>): Promise<void> {
    const { tensors, warnings, distributions, counter, output } = state;
    const before = [tensors.length, warnings.length] as const;
    const known = distributions?.size ?? 0;
    await this.#stoppable(state, this.#carried(state).length === 0, work);
    this.#unsaved.push({
      name: unit.name,
      pieces: output.takePieces(),
      tensors: tensors.slice(before[0]),
      distributions: [...distributions ?? []].slice(known),
      warnings: warnings.slice(before[1]),
      windows: counter.done,
    });
    if (this.#asked?.aborted || this.#due()) await this.#save(state);
    this.#asked?.throwIfAborted();
  }

  /** Do what comes after all units, which changes nothing that is carried. */
  async rest<T>(state: RunState, work: () => Promise<T>): Promise<T> {
    return await this.#stoppable(state, true, async () => {
      const result = await work();
      this.#asked?.throwIfAborted();
      return result;
    });
  }

  [Symbol.dispose](): void {
    this.#asked?.removeEventListener("abort", this.#onAbort);
  }

  /** Do what may be stopped at once if all that is finished is saved, or can be then. */
  async #stoppable<T>(state: RunState, intact: boolean, work: () => Promise<T>): Promise<T> {
    this.#intact = intact;
    try {
      return await work();
    } catch (error) {
      if (intact && this.#asked?.aborted && this.#unsaved.length > 0) {
        // What the unit at hand has written is none of a finished one.
        state.output.takePieces();
        await this.#save(state);
      }
      throw error;
    }
  }

  readonly #onAbort = (): void => {
    if (this.#intact || this.#unsaved.length === 0) this.#stop.abort(this.#asked!.reason);
  };

  /** What the units after the first so many need of those before. */
  #carried(
    { streams, calibration }: RunState,
    done = this.#saved + this.#unsaved.length,
  ): Carried[] {
    const left = this.#plan.units.slice(done).some(({ place }) => typeof place === "number");
    return [streams, left ? calibration : undefined].filter((part) => part !== undefined);
  }

  #due(): boolean {
    const { seconds, perByte } = FIRST_SAVE;
    const took = this.#seconds ?? seconds + this.#plan.carryBytes / 2 * perByte;
    return performance.now() - this.#since >= 1000 * took / this.#share;
  }

  async #save(state: RunState): Promise<void> {
    using _ = state.trace.begin("write");
    const begun = performance.now();
    await state.output.flush();
    const carried = this.#carried(state);
    const carry = carried.length === 0 ? undefined : await this.#resumption.saveCarry(
      async (to) => {
        for (const part of carried) await part.save(to);
      },
    );
    const save: JournalSave = {
      at: new Date().toISOString(),
      units: this.#unsaved,
      carry: carry ?? null,
    };
    await this.#resumption.append(save);
    this.#saved += this.#unsaved.length;
    this.#unsaved = [];
    await this.#resumption.keepCarry(carry);
    this.#since = performance.now();
    this.#seconds = (this.#since - begun) / 1000;
  }
}
