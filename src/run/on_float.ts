/**
 * Blocks that are calibrated on the original's hidden states (`calibrate-on float`), by several
 * workers. One of them at a time sends the windows through the blocks as they are, and writes what
 * they are before each; all others, and it, too, once enough is written, quantize blocks of which
 * that is there, in any order. A block's states are removed when it is done. Nobody depends on who
 * wrote them: whoever finds too few goes on with the last.
 */
import type { CarryReader, CarryWriter } from "../carry.ts";
import { codeOf } from "../io/system_faults.ts";
import type { Plan } from "../plan/planned.ts";
import { isBlock } from "../plan/tasks.ts";
import { BEFORE, type Place, type ShardPlace } from "./meeting_place.ts";
import { Patience } from "./patience.ts";
import { type Calibrating, performStored, walkPast } from "./shared_unit.ts";

/** The lease of whoever sends windows on. */
const WALK = "walk";

/** All windows are one worker's. */
const SHARD = 0;

/** See the head of this file. */
export class FloatWorker {
  readonly #plan: Plan;
  readonly #folder: ShardPlace;
  readonly #count: number;
  readonly #signal: AbortSignal | undefined;
  readonly #patience: Patience;
  /** The units of the first block and of the last. */
  readonly #first: number;
  readonly #last: number;
  /** The unit before which windows stand. */
  #standing: number | undefined;

  constructor(plan: Plan, { folder, count, signal }: Place) {
    this.#plan = plan;
    this.#folder = folder;
    this.#count = count;
    this.#signal = signal;
    this.#patience = new Patience(signal);
    this.#first = plan.units.findIndex(isBlock);
    this.#last = plan.units.findLastIndex(isBlock);
  }

  /** Do blocks until all are done or others are at them; the names of those it did. */
  async blocks(work: Calibrating): Promise<string[]> {
    const did: string[] = [];
    for (;;) {
      this.#signal?.throwIfAborted();
      const open = await this.#open();
      if (open.length === 0) return did;
      const ready = await this.#ready(open);
      // One for each worker, so that nobody who comes back has to wait.
      if (ready.length < this.#count && await this.#walk(work, { open, ready })) continue;
      const unit = await this.#quantize(work, ready);
      if (unit === undefined) await this.#patience.wait();
      else {
        this.#patience.end();
        did.push(this.#plan.units[unit]!.name);
      }
    }
  }

  /** Blocks that are not done and nobody is at, in order. */
  async #open(): Promise<number[]> {
    const open: number[] = [];
    for (const unit of await this.#folder.undone()) {
      if (isBlock(this.#plan.units[unit]!) && !(await this.#folder.isLeased(unit))) open.push(unit);
    }
    return open;
  }

  /** Those before which windows may be brought to stand. */
  async #ready(open: readonly number[]): Promise<number[]> {
    const ready: number[] = [];
    for (const unit of open) if (await this.#has(unit)) ready.push(unit);
    return ready;
  }

  /** Before the first block stand the tokens' embeddings, which everybody can look up. */
  async #has(unit: number): Promise<boolean> {
    return unit === this.#first || await this.#folder.shards.has(unit, BEFORE, SHARD);
  }

  /**
   * Send the windows on to the first open block before which they were not; `false` where another
   * worker does that, or nothing is to be done.
   */
  async #walk(
    work: Calibrating,
    { open, ready }: { readonly open: readonly number[]; readonly ready: readonly number[] },
  ): Promise<boolean> {
    const to = open.find((unit) => !ready.includes(unit));
    if (to === undefined) return false;
    await using lease = await this.#folder.lease(WALK);
    if (!lease) return false;
    if (await this.#has(to)) return true;
    let from = to - 1;
    while (!(await this.#has(from))) from--;
    if (!(await this.#stand(from, work))) return true;
    const { shards } = this.#folder;
    for (; from < to; from++) {
      this.#signal?.throwIfAborted();
      await walkPast(this.#plan.units[from]!, work);
      this.#standing = from + 1;
      if (from + 1 < to && await this.#folder.done(from + 1)) continue;
      const save = (into: CarryWriter) => work.calibration.save(into);
      try {
        await shards.put(from + 1, { what: BEFORE, shard: SHARD, save });
      } catch (error) {
        // Whoever took over from this one, which was held up, has done the block and tidied.
        if (codeOf(error) !== "ENOENT" || !(await this.#folder.done(from + 1))) throw error;
      }
    }
    await this.#tidy();
    return true;
  }

  /** Quantize one of some blocks, and store it; which it was. */
  async #quantize(work: Calibrating, ready: readonly number[]): Promise<number | undefined> {
    // What windows stand at already need not be read.
    const [here, others] = [true, false].map((stands) =>
      ready.filter((unit) => (unit === this.#standing) === stands)
    );
    for (const unit of [...here!, ...others!]) {
      await using lease = await this.#folder.lease(unit);
      if (!lease || await this.#folder.done(unit) || !(await this.#stand(unit, work))) continue;
      this.#standing = undefined;
      await performStored(unit, this.#folder, { ...work, stay: true });
      await this.#tidy();
      return unit;
    }
  }

  /** Bring the windows before a block; `false` where what they are there was removed meanwhile. */
  async #stand(unit: number, { calibration, original }: Calibrating): Promise<boolean> {
    if (this.#standing === unit) return true;
    this.#standing = undefined;
    await calibration.walkAlone([...Array(calibration.shards).keys()]);
    if (unit === this.#first) await calibration.embed(original);
    else {
      const restore = (from: CarryReader) => calibration.restore(from);
      try {
        await this.#folder.shards.take(unit, { what: BEFORE, shard: SHARD, restore });
      } catch (error) {
        if (codeOf(error) === "ENOENT") return false;
        throw error;
      }
    }
    this.#standing = unit;
    return true;
  }

  /** Remove the states before blocks that are done, but for the last, with which it goes on. */
  async #tidy(): Promise<void> {
    const { shards } = this.#folder;
    const written = await shards.blocks();
    for (const unit of written) {
      const goesOn = unit === written.at(-1) && !(await this.#folder.done(this.#last));
      if (!goesOn && await this.#folder.done(unit)) await shards.remove(unit);
    }
  }
}
