/**
 * Where a run's time and memory went, phase by phase and block by block. A run does one thing after another, so phases nest like calls, and each
 * counts what it did itself. Reads ahead and writes behind overlap with them: of those only the waiting counts. On a GPU work is queued, and its
 * time is that of the phase that next waits for it; nothing waits for the sake of this clock.
 */

/** What a run does, in the order of a calibrated block. */
export const PHASES = [
  "load",
  "walk",
  "solve",
  "scales",
  "round",
  "measure",
  "pack",
  "write",
  "evaluate",
  "other",
] as const;

/**
 * `load` waiting for tensors and bringing them to the device · `walk` windows of the calibration on their way, and being observed · `solve`
 * factors and the targets of error propagation · `scales` the search of AWQ and SmoothQuant · `round` codes · `measure` metrics · `pack` · `write`
 * waiting for the disk · `evaluate` windows of the evaluation in both streams · `other` all the rest.
 */
export type Phase = typeof PHASES[number];

/** What a phase took. */
export interface PhaseUse {
  readonly seconds: number;
  /** The most resident memory that was seen in it; 0 when none was sampled. */
  readonly peakBytes: number;
}

/** The phases that there were; those of a block, `name`, or of the whole run. */
export type PhaseUses = Readonly<Partial<Record<Phase, PhaseUse>>>;

/** Where a run's time and memory went. */
export interface PhaseReport {
  readonly total: PhaseUses;
  readonly blocks: readonly { readonly name: string; readonly phases: PhaseUses }[];
}

/** How much memory the process has. */
export interface MemorySampler {
  /** Now, or at most so far. */
  readonly residentBytes?: (() => number) | undefined;
  /** Now, where `residentBytes` is the most so far. */
  readonly currentBytes?: (() => number) | undefined;
}

/** Looking at memory takes some 20 µs: stretches shorter than this are not looked at. */
const LEAST_SAMPLED = 2;

type Uses = Partial<Record<Phase, { seconds: number; peakBytes: number }>>;

/** Notes what a run is at. */
export class PhaseClock {
  readonly #memory: MemorySampler;
  readonly #now: () => number;
  readonly #blocks = new Map<string, Uses>();
  /** Of what belongs to no block. */
  readonly #outside: Uses = {};
  #uses = this.#outside;
  #phase: Phase = "other";
  #since: number;
  #highest = 0;

  /** @param options.now Milliseconds; the machine's clock unless a test gives another. */
  constructor(
    { now = () => performance.now(), ...memory }: MemorySampler & {
      readonly now?: () => number;
    } = {},
  ) {
    this.#memory = memory;
    this.#now = now;
    this.#since = now();
  }

  /** From here on, what happens belongs to this block; to none when there is no name. */
  enter(block: string | undefined): void {
    this.#switch(this.#phase);
    this.#uses = block === undefined
      ? this.#outside
      : this.#blocks.getOrInsertComputed(block, () => ({}));
  }

  /** From here on it is a part of `phase`, until what is given back is disposed of; then the phase around it goes on. */
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

  #switch(to: Phase): void {
    const now = this.#now();
    const took = now - this.#since;
    const use = this.#uses[this.#phase] ??= { seconds: 0, peakBytes: 0 };
    use.seconds += took / 1000;
    if (took >= LEAST_SAMPLED || use.peakBytes === 0) {
      use.peakBytes = Math.max(use.peakBytes, this.#sample());
    }
    this.#phase = to;
    this.#since = now;
  }

  /** If the most so far rose, it was reached in the phase that ends; else what is held now is all that is known of it. */
  #sample(): number {
    const { residentBytes, currentBytes } = this.#memory;
    const most = residentBytes?.() ?? 0;
    const rose = most > this.#highest;
    this.#highest = Math.max(this.#highest, most);
    return rose || !currentBytes ? most : currentBytes();
  }

  /** All that was noted, until now. */
  report(): PhaseReport {
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
      }
    }
    return { total: inOrder(total), blocks };
  }
}

function inOrder(uses: Uses): PhaseUses {
  return Object.fromEntries(
    PHASES.flatMap((phase) => uses[phase] ? [[phase, { ...uses[phase] }]] : []),
  );
}
