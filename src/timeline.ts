/** When bytes came in, the device was busy, and bytes went out: what shows whether a run's parts overlap. */

/** What a stretch of time was spent on. */
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

interface Stretch {
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/** Parts a timeline is cut into. */
const PARTS = 200;

/** Notes what is going on. */
export class Stopwatch {
  readonly #begun = performance.now();
  readonly #stretches: Readonly<Record<Activity, Stretch[]>> = { read: [], compute: [], write: [] };

  /** Do `work` and note how long it took. */
  async time<T>(activity: Activity, bytes: number, work: () => Promise<T>): Promise<T> {
    const from = performance.now() - this.#begun;
    const result = await work();
    this.#stretches[activity].push({ from, to: performance.now() - this.#begun, bytes });
    return result;
  }

  /** All that was noted, until now. */
  timeline(): Timeline {
    const end = performance.now() - this.#begun;
    const step = end / PARTS;
    const parts = (activity: Activity, share: (stretch: Stretch, overlap: number) => number) => {
      const sums = new Array<number>(PARTS).fill(0);
      for (const stretch of this.#stretches[activity]) {
        const first = Math.min(PARTS - 1, Math.floor(stretch.from / step));
        const last = Math.min(PARTS - 1, Math.floor(stretch.to / step));
        for (let part = first; part <= last; part++) {
          const overlap = Math.min(stretch.to, (part + 1) * step) -
            Math.max(stretch.from, part * step);
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
