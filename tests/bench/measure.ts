/**
 * Timing on a noisy machine: contestants take turns, medians are compared, and what is printed is a
 * table of ratios.
 */
import { type Column, table } from "../../src/terminal/table.ts";

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

/** A rate of floating-point operations a second: `23.1 GFLOP/s`, `4.07 TFLOP/s`. */
export function flopRate(rate: number): string {
  const [size, unit] = rate < 1e12 ? [1e9, "G"] : [1e12, "T"];
  return `${Number((rate / size).toPrecision(3))} ${unit}FLOP/s`;
}

/** One row of the table: what Sluice does, and the rival or limit it is held against. */
export interface Ratio {
  readonly what: string;
  /** With its unit: `1.9 GB/s`. */
  readonly ours: string;
  /** Its name and its value: `copying the file: 2.0 GB/s`; absent where there was none. */
  readonly against?: string;
  /** How often as fast as that ours is: above 1 is faster, whatever the units. */
  readonly ratio?: number;
  /** What the ratio should reach. */
  readonly goal?: number;
  readonly device: string;
  /** Printed under the table. */
  readonly detail?: string;
}

/** What was not measured, and why, as a sentence. */
export interface Skipped {
  readonly skipped: string;
}

const COLUMNS: readonly Column[] = [
  { head: "what" },
  { head: "ours", align: "right" },
  { head: "rival or limit" },
  { head: "ratio", align: "right" },
  { head: "goal" },
  { head: "device" },
];

/** All that was measured as a table, its footnotes, and what was skipped. */
export function formatRatios(results: readonly (Ratio | Skipped)[]): string {
  const ratios = results.filter((result) => "what" in result);
  const notes = [...new Set(ratios.flatMap(({ detail }) => detail ?? []))];
  const rows = ratios.map(({ what, ours, against = "", ratio, goal, device, detail }) => [
    detail === undefined ? what : `${what} [${notes.indexOf(detail) + 1}]`,
    ours,
    against,
    ratio?.toFixed(2) ?? "",
    goal === undefined || ratio === undefined ? "" : `${goal}${ratio < goal ? ", missed" : ""}`,
    device,
  ]);
  return [
    ...(rows.length > 0 ? [table(COLUMNS, rows)] : []),
    notes.map((note, i) => `[${i + 1}] ${note}\n`).join(""),
    results.flatMap((result) => "skipped" in result ? `Skipped: ${result.skipped}\n` : []).join(""),
  ].filter((part) => part !== "").join("\n");
}
