/**
 * Blocks that are calibrated on what the quantized blocks before give, by several workers. All of
 * them go through the same block at a time; each sends its own shards of the windows, and all add
 * up what was gathered of all shards, in order, and choose the same codes by it. Who is worker I of
 * N sends shards I, I + N, …, and those of workers that are not there. A shard whose worker dies in
 * a block is taken over by one that waits for it, which begins the block again.
 */
import type { ShardExchange } from "../calibration/gathering.ts";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { SpaceError } from "../errors.ts";
import { codeOf } from "../io/system_faults.ts";
import type { Plan } from "../plan/planned.ts";
import { isBlock } from "../plan/tasks.ts";
import { BEFORE, type Place, type ShardPlace, type Share } from "./meeting_place.ts";
import { Patience } from "./patience.ts";
import { type Calibrating, performStored, performUnit, type Work } from "./shared_unit.ts";

/** A shard was taken over: the block is begun again with it. */
class TakenOver extends Error {}

/** The others have done the block meanwhile, and removed what they had exchanged for it. */
class Overtaken extends Error {}

/** See the head of this file. */
export class ShardWorker implements ShardExchange, AsyncDisposable {
  readonly #folder: ShardPlace;
  readonly #index: number;
  readonly #count: number;
  readonly #plan: Plan;
  /** The units of the first block and of the last. */
  readonly #first: number;
  readonly #last: number;
  readonly #signal: AbortSignal | undefined;
  readonly #patience: Patience;
  /** Says that this worker is there; undefined where another process has its number. */
  readonly #presence: AsyncDisposable | undefined;
  /** The unit at hand, and the leases of shards that this worker sends through it. */
  #unit = 0;
  readonly #held = new Map<number, AsyncDisposable>();
  /** The unit before which windows stand, and the shards whose they are. */
  #standing: { readonly unit: number; readonly shards: readonly number[] } | undefined;

  private constructor(
    plan: Plan,
    { folder, index, count, signal }: Place,
    presence: AsyncDisposable | undefined,
  ) {
    this.#plan = plan;
    this.#first = plan.units.findIndex(isBlock);
    this.#last = plan.units.findLastIndex(isBlock);
    this.#folder = folder;
    this.#index = index;
    this.#count = count;
    this.#signal = signal;
    this.#patience = new Patience(signal);
    this.#presence = presence;
  }

  static async open(plan: Plan, place: Place): Promise<ShardWorker> {
    return new ShardWorker(plan, place, await place.folder.lease(nameOf(place)));
  }

  /** Do all blocks, together with whoever else is at them; the names of those it stored. */
  async blocks(work: Calibrating): Promise<string[]> {
    const did: string[] = [];
    const walked = new Set<number>();
    for (;;) {
      this.#signal?.throwIfAborted();
      const unit = await this.#next(walked);
      if (unit === undefined) return did;
      this.#unit = unit;
      if (await this.#block(work)) did.push(this.#plan.units[unit]!.name);
      walked.add(unit);
    }
  }

  /** A block that this worker must do; undefined where nothing is left, or others are at it. */
  async #next(walked: ReadonlySet<number>): Promise<number | undefined> {
    const [folder, last] = [this.#folder, this.#last];
    for (;;) {
      const front = await folder.done(last) ? last + 1 : await this.#front();
      for (let unit = this.#first; unit < Math.min(front, last + 1); unit++) {
        // Its worker has died while it stored it.
        if (!(await folder.done(unit)) && !(await folder.isLeased(unit))) return unit;
      }
      if (front > last) return undefined;
      if (!walked.has(front)) return front;
      if (front === last) return await folder.isLeased(last) ? undefined : last;
      // Others are at the end of what this worker has done.
      for (const shard of await this.#missing(front + 1)) {
        const isHeld = await folder.isLeased(this.#leaseOf(front, shard));
        if (!isHeld && !(await this.#isAttended(shard))) return front;
      }
      await this.#patience.wait();
    }
  }

  /** Do the block at hand; whether this worker stored it. */
  async #block(work: Calibrating): Promise<boolean> {
    const { calibration } = work;
    const [folder, unit] = [this.#folder, this.#unit];
    try {
      await this.#takeOwn(calibration.shards);
      for (;;) {
        try {
          await this.#stand(work);
          const stored = await this.#perform(work);
          for (const shard of unit === this.#last ? [] : this.#shards) {
            const save = (to: CarryWriter) => calibration.saveShard(shard, to);
            await this.#write(unit + 1, { what: BEFORE, shard, save });
          }
          this.#standing = { unit: unit + 1, shards: this.#shards };
          if (await this.#isOver()) await folder.shards.remove(unit);
          return stored;
        } catch (error) {
          this.#standing = undefined;
          if (error instanceof Overtaken) return false;
          if (!(error instanceof TakenOver)) throw error;
        }
      }
    } finally {
      for (const lease of this.#held.values()) await lease[Symbol.asyncDispose]();
      this.#held.clear();
    }
  }

  async #perform(work: Work): Promise<boolean> {
    const [folder, unit] = [this.#folder, this.#unit];
    await using lease = await folder.lease(unit);
    const stores = lease !== undefined && !(await folder.done(unit));
    if (stores) await performStored(unit, folder, work);
    else await performUnit(this.#plan.units[unit]!, work);
    return stores;
  }

  /** Take this worker's shards of the block at hand, and those of workers that are not there. */
  async #takeOwn(shards: number): Promise<void> {
    for (let shard = 0; shard < shards; shard++) {
      if (await this.#isAttended(shard)) continue;
      // One whose windows stand behind the block was seen at all of its stops.
      if (await this.#folder.shards.has(this.#unit + 1, BEFORE, shard)) continue;
      const lease = await this.#folder.lease(this.#leaseOf(this.#unit, shard));
      if (lease) this.#held.set(shard, lease);
    }
  }

  /** The shards that are held, in order. */
  get #shards(): number[] {
    return [...this.#held.keys()].sort((a, b) => a - b);
  }

  /** Bring the windows of the shards that are held before the block. */
  async #stand({ calibration, original }: Calibrating) {
    const shards = this.#shards;
    const { unit, shards: standing } = this.#standing ?? {};
    if (unit === this.#unit && String(shards) === String(standing)) return;
    await calibration.walkAlone(shards);
    if (this.#unit === this.#first) return await calibration.embed(original);
    for (const shard of shards) {
      await this.#read(BEFORE, shard, (from) => calibration.restoreShard(shard, from));
    }
  }

  /** Read a shard's bytes, which are there unless others have done the block meanwhile. */
  async #read(
    what: string,
    shard: number,
    restore: (from: CarryReader) => Promise<void>,
  ): Promise<void> {
    try {
      await this.#folder.shards.take(this.#unit, { what, shard, restore });
    } catch (error) {
      if (error instanceof SpaceError && await this.#isOver()) throw new Overtaken();
      throw error;
    }
  }

  async has(stop: string, shard: number): Promise<boolean> {
    return await this.#folder.shards.has(this.#unit, stop, shard);
  }

  async put(
    stop: string,
    shard: number,
    save: (to: CarryWriter) => Promise<void>,
  ): Promise<void> {
    await this.#write(this.#unit, { what: stop, shard, save });
  }

  /** Write a shard's bytes; whoever has done the block meanwhile has removed the folder for them. */
  async #write(unit: number, made: Parameters<ShardPlace["shards"]["put"]>[1]): Promise<void> {
    try {
      await this.#folder.shards.put(unit, made);
    } catch (error) {
      if (codeOf(error) === "ENOENT" && await this.#isOver()) throw new Overtaken();
      throw error;
    }
  }

  async take(
    stop: string,
    shard: number,
    restore: (from: CarryReader) => Promise<void>,
  ): Promise<void> {
    while (!(await this.has(stop, shard))) {
      if (await this.#isOver()) throw new Overtaken();
      if (!this.#held.has(shard) && !(await this.#isAttended(shard))) {
        const lease = await this.#folder.lease(this.#leaseOf(this.#unit, shard));
        if (lease) {
          this.#held.set(shard, lease);
          if (!(await this.has(stop, shard))) throw new TakenOver();
        }
      }
      await this.#patience.wait();
    }
    this.#patience.end();
    await this.#read(stop, shard, restore);
  }

  /** Whether another worker is there whose shard it is. */
  async #isAttended(shard: number): Promise<boolean> {
    const owner = shard % this.#count;
    return owner !== this.#index &&
      await this.#folder.isLeased(nameOf({ index: owner, count: this.#count }));
  }

  /** Whether the block at hand is stored, and all windows stand behind it. */
  async #isOver(): Promise<boolean> {
    if (!(await this.#folder.done(this.#unit))) return false;
    return await this.#folder.done(this.#last) !== undefined ||
      this.#unit < await this.#front();
  }

  /** The last block before which all windows stand. */
  async #front(): Promise<number> {
    for (const unit of (await this.#folder.shards.blocks()).reverse()) {
      if ((await this.#missing(unit)).length === 0) return unit;
    }
    return this.#first;
  }

  /** Shards whose windows do not stand before a block. */
  async #missing(unit: number): Promise<number[]> {
    const missing: number[] = [];
    for (let shard = 0; shard < this.#plan.calibration!.shards!; shard++) {
      if (!(await this.#folder.shards.has(unit, BEFORE, shard))) missing.push(shard);
    }
    return missing;
  }

  #leaseOf(unit: number, shard: number): string {
    return `${unit}-shard-${shard}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#presence?.[Symbol.asyncDispose]();
  }
}

/**
 * The lease by which a worker tells that it is there. It says of how many, too: of workers that
 * count otherwise, each would wait for the other.
 */
function nameOf({ index, count }: Share): string {
  return `worker-${index}-of-${count}`;
}
