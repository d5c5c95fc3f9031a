/**
 * Timing on a noisy machine: contestants take turns, medians are compared, and what is printed is a
 * ratio.
 */

/** A contestant: what one turn does, and how much work a turn is, in `unit`s. */
export interface Contestant {
  readonly name: string;
  readonly work: number;
  turn(): Promise<number | void> | number | void;
}

/** What came out: median rate in work per second. */
export interface Rate {
  readonly name: string;
  readonly rate: number;
  readonly seconds: number;
}

/** The middle value; the mean of the two middle ones for an even count. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Let the contestants take turns; a turn that returns a number has measured its own seconds. */
export async function compare(
  contestants: readonly Contestant[],
  { rounds = 9 }: { rounds?: number } = {},
): Promise<Rate[]> {
  const seconds = contestants.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    for (const [i, { turn }] of contestants.entries()) {
      const begun = performance.now();
      const own = await turn();
      const took = own ?? (performance.now() - begun) / 1000;
      // The first round warms caches and compilers and is not counted.
      if (round >= 0) seconds[i]!.push(took);
    }
  }
  return contestants.map(({ name, work }, i) => {
    const middle = median(seconds[i]!);
    return { name, rate: work / middle, seconds: middle };
  });
}

/** One line of a result: a ratio, and the goal it is held against. */
export interface Ratio {
  readonly what: string;
  readonly ratio: number;
  readonly goal?: number;
  readonly detail: string;
}

/** `x.xx of goal y.yy  what  (detail)`. */
export function formatRatio({ what, ratio, goal, detail }: Ratio): string {
  const mark = goal === undefined
    ? ""
    : ratio >= goal
    ? `  (goal ${goal}: reached)`
    : `  (goal ${goal}: missed)`;
  return `${ratio.toFixed(2).padStart(6)}  ${what}${mark}\n        ${detail}`;
}
