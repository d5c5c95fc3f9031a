/**
 * Where a run's time and memory went: phase by phase and block by block, and over time when bytes
 * came in, the device was busy, and bytes went out.
 *
 * A run does one thing after another, so phases nest like calls, and each counts what it did
 * itself. Reads ahead and writes behind overlap with them: of those only the waiting counts as a
 * phase. On a GPU work is queued, and its time is that of the phase that next waits for it; nothing
 * waits for the sake of this clock. What passes to and from a GPU is counted for the phase that
 * asks for it.
 */
import { addTraffic, NO_TRAFFIC, type Traffic } from "./traffic.ts";

/** What a run does, in the order of a calibrated block. */
export const PHASES = [
  "load",
  "walk",
  "solve",
  "scales",
  "round",
  "tune",
  "measure",
  "pack",
  "write",
  "evaluate",
  "other",
] as const;

/**
 * `load` waiting for tensors and bringing them to the device · `walk` windows of the calibration on
 * their way, and being observed · `solve` factors and the targets of error propagation · `scales`
 * the search of AWQ and SmoothQuant · `round` codes · `tune` blocks trained · `measure` metrics · `pack` · `write` waiting
 * for the disk · `evaluate` windows of the evaluation in both streams · `other` all the rest.
 */
export type Phase = typeof PHASES[number];

/** Phases in which nothing is computed. */
const IDLE: readonly Phase[] = ["load", "write", "other"];

/** What a phase took. */
export interface PhaseUse {
  readonly seconds: number;
  /** The most resident memory that was seen in it; 0 when none was sampled. */
  readonly peakBytes: number;
  /** What passed to and from the device; absent where none has memory of its own. */
  readonly traffic?: Traffic;
}

/** The phases that there were; those of a block, `name`, or of the whole run. */
export type PhaseUses = Readonly<Partial<Record<Phase, PhaseUse>>>;

/** Where a run's time and memory went. */
export interface PhaseReport {
  readonly total: PhaseUses;
  readonly blocks: readonly { readonly name: string; readonly phases: PhaseUses }[];
}

/** What goes on beside each other. */
export type Activity = "read" | "compute" | "write";

/** A run's time cut into equal parts. */
export interface Timeline {
  /** Seconds of one part. */
  readonly step: number;
  /** Bytes per part that arrived from the source, and that the sink took. */
  readonly read: readonly number[];
  readonly write: readonly number[];
  /** Seconds of each part in which the device, or the host on its behalf, computed. */
  readonly compute: readonly number[];
  /** Seconds in which at least one of each was under way, over the whole run. */
  readonly busy: Readonly<Record<Activity, number>>;
}

/** How much memory the process has. */
export interface MemorySampler {
  /** Now, or at most so far. */
  readonly residentBytes?: (() => number) | undefined;
  /** Now, where `residentBytes` is the most so far. */
  readonly currentBytes?: (() => number) | undefined;
}

interface Stretch {
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/** Looking at memory takes some 20 µs: stretches shorter than this are not looked at. */
const LEAST_SAMPLED = 2;

/** Parts a timeline is cut into. */
const PARTS = 200;

type Uses = Partial<Record<Phase, { seconds: number; peakBytes: number; traffic?: Traffic }>>;

/**
 * Notes what a run is at. Times are milliseconds of the machine's clock, unless a test gives
 * another.
 */
export class Trace {
  readonly #memory: MemorySampler;
  readonly #now: () => number;
  readonly #traffic: (() => Traffic | undefined) | undefined;
  readonly #begun: number;
  readonly #blocks = new Map<string, Uses>();
  readonly #stretches: Readonly<Record<Activity, Stretch[]>> = { read: [], compute: [], write: [] };
  /** Of what belongs to no block. */
  readonly #outside: Uses = {};
  #uses = this.#outside;
  #phase: Phase = "other";
  #since: number;
  #passed: Traffic | undefined;
  #highest = 0;

  constructor(
    { now = () => performance.now(), traffic, ...memory }: MemorySampler & {
      readonly now?: () => number;
      /** `Backend.traffic` */
      readonly traffic?: () => Traffic | undefined;
    } = {},
  ) {
    this.#memory = memory;
    this.#traffic = traffic;
    this.#passed = traffic?.();
    this.#now = now;
    this.#begun = this.#since = now();
  }

  /** Seconds since it began. */
  get seconds(): number {
    return (this.#now() - this.#begun) / 1000;
  }

  /** From here on, what happens belongs to this block; to none when there is no name. */
  enter(block: string | undefined): void {
    this.#switch(this.#phase);
    this.#uses = block === undefined
      ? this.#outside
      : this.#blocks.getOrInsertComputed(block, () => ({}));
  }

  /**
   * From here on it is a part of `phase`, until what is given back is disposed of; then the phase
   * around it goes on.
   */
  begin(phase: Phase): Disposable {
    const around = this.#phase;
    this.#switch(phase);
    return { [Symbol.dispose]: () => this.#switch(around) };
  }

  /** Do `work` as a part of `phase`. */
  async time<T>(phase: Phase, work: () => T | Promise<T>): Promise<T> {
    using _ = this.begin(phase);
    return await work();
  }

  /** Do `work`, which moves bytes beside whatever else goes on. */
  async transfer<T>(way: "read" | "write", bytes: number, work: () => Promise<T>): Promise<T> {
    const from = this.#now();
    const result = await work();
    this.#stretches[way].push({ from, to: this.#now(), bytes });
    return result;
  }

  #switch(to: Phase): void {
    const now = this.#now();
    const took = now - this.#since;
    const use = this.#uses[this.#phase] ??= { seconds: 0, peakBytes: 0 };
    use.seconds += took / 1000;
    if (took >= LEAST_SAMPLED || use.peakBytes === 0) {
      use.peakBytes = Math.max(use.peakBytes, this.#sample());
    }
    this.#count(use);
    if (!IDLE.includes(this.#phase) && took > 0) this.#computed(this.#since, now);
    this.#phase = to;
    this.#since = now;
  }

  #count(use: NonNullable<Uses[Phase]>): void {
    const passed = this.#traffic?.();
    if (!passed) return;
    use.traffic = addTraffic(
      addTraffic(use.traffic ?? NO_TRAFFIC, passed),
      this.#passed ?? NO_TRAFFIC,
      -1,
    );
    this.#passed = passed;
  }

  /** One phase after another is one stretch. */
  #computed(from: number, to: number): void {
    const { compute } = this.#stretches;
    const last = compute.at(-1);
    if (last?.to === from) compute.pop();
    compute.push({ from: last?.to === from ? last.from : from, to, bytes: 0 });
  }

  /**
   * If the most so far rose, it was reached in the phase that ends; else what is held now is all
   * that is known of it.
   */
  #sample(): number {
    const { residentBytes, currentBytes } = this.#memory;
    const most = residentBytes?.() ?? 0;
    const rose = most > this.#highest;
    this.#highest = Math.max(this.#highest, most);
    return rose || !currentBytes ? most : currentBytes();
  }

  /** The most resident memory that was seen, in bytes; 0 when none was. */
  get peakBytes(): number {
    this.#sample();
    return this.#highest;
  }

  /** All phases that were noted, until now. */
  phases(): PhaseReport {
    this.#switch(this.#phase);
    const blocks = [...this.#blocks].map(([name, phases]) => ({ name, phases: inOrder(phases) }));
    const total: Uses = {};
    for (const uses of [...this.#blocks.values(), this.#outside]) {
      for (const phase of PHASES) {
        const use = uses[phase];
        if (!use) continue;
        const sum = total[phase] ??= { seconds: 0, peakBytes: 0 };
        sum.seconds += use.seconds;
        sum.peakBytes = Math.max(sum.peakBytes, use.peakBytes);
        if (use.traffic) sum.traffic = addTraffic(sum.traffic ?? NO_TRAFFIC, use.traffic);
      }
    }
    return { total: inOrder(total), blocks };
  }

  /** All that went on beside each other, until now. */
  timeline(): Timeline {
    this.#switch(this.#phase);
    const step = (this.#now() - this.#begun) / PARTS;
    const parts = (activity: Activity, share: (stretch: Stretch, overlap: number) => number) => {
      const sums = new Array<number>(PARTS).fill(0);
      const partOf = (time: number) => Math.min(PARTS - 1, Math.floor((time - this.#begun) / step));
      for (const stretch of this.#stretches[activity]) {
        for (let part = partOf(stretch.from); part <= partOf(stretch.to); part++) {
          const begin = this.#begun + part * step;
          const overlap = Math.min(stretch.to, begin + step) - Math.max(stretch.from, begin);
          sums[part]! += share(stretch, Math.max(0, overlap));
        }
      }
      return sums;
    };
    const rate = ({ bytes, from, to }: Stretch, overlap: number) =>
      to > from ? bytes * overlap / (to - from) : bytes;
    return {
      step: step / 1000,
      read: parts("read", rate),
      write: parts("write", rate),
      compute: parts("compute", (_, overlap) => overlap / 1000),
      busy: {
        read: covered(this.#stretches.read),
        compute: covered(this.#stretches.compute),
        write: covered(this.#stretches.write),
      },
    };
  }
}

function inOrder(uses: Uses): PhaseUses {
  return Object.fromEntries(
    PHASES.flatMap((phase) => uses[phase] ? [[phase, { ...uses[phase] }]] : []),
  );
}

/** Seconds that at least one stretch covers. */
function covered(stretches: readonly Stretch[]): number {
  let [total, reached] = [0, 0];
  for (const { from, to } of [...stretches].sort((a, b) => a.from - b.from)) {
    if (to <= reached) continue;
    total += to - Math.max(from, reached);
    reached = to;
  }
  return total / 1000;
}
