/** Suites of the plan of faults that are tests of their own, and how they are run from here. */

/** Tests of one file, by a name in the plan of faults. */
export interface Elsewhere {
  readonly id: string;
  readonly file: string;
  /** Which of its tests; all unless given. */
  readonly filter?: RegExp;
  readonly env?: Readonly<Record<string, string>>;
}

const HUB = "tests/sources_hub_test.ts";
const PUBLISH = "tests/publish_faults_test.ts";

/** In the order of the plan of faults. */
export const ELSEWHERE: readonly Elsewhere[] = [
  ...[1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => ({
    id: `N${n}`,
    file: HUB,
    filter: RegExp(`^N${n}:`),
  })),
  ...[1, 3].map((n) => ({ id: `C${n}`, file: HUB, filter: RegExp(`^C${n}:`) })),
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
  { id: "T1", file: HUB, filter: /any mix of faults/ },
];

/** Run them; how many there are, how many failed, and what was printed where some did. */
export async function runElsewhere(
  { file, filter, env = {} }: Elsewhere,
): Promise<{ readonly count: number; readonly failed: number; readonly text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", file, ...(filter ? ["--filter", `/${filter.source}/`] : [])],
    env: { ...env, NO_COLOR: "1" },
  }).output();
  const text = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  const [, passed, bad] = /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed/m.exec(text) ?? [];
  const failed = passed === undefined ? 1 : Number(bad);
  return { count: Number(passed ?? 0) + failed, failed: code === 0 ? failed : failed || 1, text };
}
