/** Suites of the plan of faults that are tests of their own, and how they are run from here. */

import { sum } from "../../src/tensor.ts";
import { COUNT, COUNTED } from "../hub_given.ts";

/** Tests of one file, by a name in the plan of faults; with `env` there are as many cases as it asks. */
export interface Elsewhere {
  readonly id: string;
  readonly file: string;
  /** Which of its tests; all unless given. */
  readonly filter?: RegExp;
  readonly env?: Readonly<Record<string, string>>;
}

/** What makes the tests of the Hub as fine as the plan of faults has them. */
const FINE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  N1: { SLUICE_FAULT_STEP: "256" },
  N2: { SLUICE_FAULT_STEP: "32" },
  N3: { SLUICE_FAULT_STEP: "256" },
  C1: { SLUICE_FAULT_FLIPS: "1500" },
};

const HUB = "tests/sources_hub_test.ts";
const PUBLISH = "tests/publish_faults_test.ts";

/** In the order of the plan of faults. */
export const ELSEWHERE: readonly Elsewhere[] = [
  ...["N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8", "N9", "C1", "C3"].map((id) => ({
    id,
    file: HUB,
    filter: RegExp(`^${id}:`),
    ...(FINE[id] ? { env: FINE[id] } : {}),
  })),
  { id: "N5", file: PUBLISH, filter: /^N5:/, env: { SLUICE_FAULT_STEP: "256" } },
  { id: "D4", file: "tests/sinks_test.ts" },
  { id: "K2", file: "tests/kills_test.ts", env: { SLUICE_KILLS: "200" } },
  {
    id: "K5",
    file: "tests/cli/process_test.ts",
    filter: /^SIG|Ctrl-C|SIGHUP|killed run/,
  },
  {
    id: "X2",
    file: "tests/resume_test.ts",
    filter: /two runs do not write|not the same is refused/,
  },
  { id: "X3", file: "tests/left_behind_test.ts" },
  { id: "G2", file: "tests/webgpu_test.ts" },
  { id: "W1", file: "tests/zeros_test.ts" },
  { id: "W2", file: "tests/run_test.ts", filter: /NaN/ },
  ...[1, 2, 3, 4, 5].map((n) => ({ id: `U${n}`, file: PUBLISH, filter: RegExp(`^U${n}:`) })),
  { id: "M1", file: "tests/publish_test.ts", filter: /memory stays flat/ },
  { id: "T1", file: HUB, filter: /any mix of faults/, env: { SLUICE_FAULT_ROUNDS: "200" } },
];

/** What became of tests. */
export interface Ran {
  readonly count: number;
  readonly failed: number;
  /** Cases that they counted; 0 where they count none. */
  readonly cases: number;
  /** What was printed. */
  readonly text: string;
}

/** Run them; all that is drawn in them comes of the seed. */
export async function runElsewhere(
  { file, filter, env = {} }: Elsewhere,
  seed: number,
): Promise<Ran> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", file, ...(filter ? ["--filter", `/${filter.source}/`] : [])],
    env: { ...env, [COUNT]: "1", SLUICE_FAULT_SEED: `${seed}`, NO_COLOR: "1" },
  }).output();
  const text = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  const [, passed, bad] = /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/m.exec(text) ?? [];
  const failed = passed === undefined ? 1 : Number(bad);
  return {
    count: Number(passed ?? 0) + failed,
    failed: code === 0 ? failed : failed || 1,
    cases: sum([...text.matchAll(COUNTED)], ([, cases]) => Number(cases)),
    text,
  };
}
