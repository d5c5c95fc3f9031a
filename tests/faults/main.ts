/**
 * All cases of faults that are counted, by their names in the plan of faults: `deno task test:faults
 * --seed N --only ID:INDEX`. Prints of each suite how many there are, and what became of them; a
 * case that fails is named so that it can be run again alone. Those that are tests of their own are
 * counted by test.
 */
import { parseArgs } from "node:util";
import { ELSEWHERE, runElsewhere } from "./elsewhere.ts";
import { SUITES } from "./suites.ts";

const { values } = parseArgs({
  options: { seed: { type: "string", default: "1" }, only: { type: "string" } },
});
const seed = Number(values.seed);
const [only, index] = values.only?.split(":") ?? [];
const ids = [...SUITES, ...ELSEWHERE].map(({ id }) => id);
if (!Number.isSafeInteger(seed) || only !== undefined && !ids.includes(only)) {
  throw new RangeError(`--seed takes a whole number, --only one of ${ids.join(", ")}`);
}
// deno-lint-ignore no-console -- the counts are for whoever runs this
const print = console.log;

let failures = 0;
for (const { id, title, absent, open } of SUITES) {
  if (only !== undefined && id !== only) continue;
  if (absent !== undefined) {
    print(`${id}  not run: ${absent}`);
    continue;
  }
  const begun = performance.now();
  await using cases = await open(seed);
  const chosen = index === undefined
    ? Array.from({ length: cases.count }, (_, i) => i)
    : [Number(index)];
  const counts = new Map<string, number>();
  let failed = 0;
  for (const i of chosen) {
    try {
      const became = await cases.run(i);
      counts.set(became, (counts.get(became) ?? 0) + 1);
    } catch (error) {
      // One case that fails hides no other.
      failed++;
      print(`${id}:${i} failed (--seed ${seed} --only ${id}:${i}): ${error}`);
      if (index !== undefined) print((error as Error).stack);
    }
  }
  failures += failed;
  const told = [...counts].map(([became, n]) => `${n} ${became}`).join(", ");
  const seconds = Math.round((performance.now() - begun) / 1000);
  print(`${id}  ${title}: ${chosen.length} cases, ${failed} failed; ${told}; ${seconds} s`);
}
for (const tests of ELSEWHERE) {
  if (only !== undefined && tests.id !== only) continue;
  const begun = performance.now();
  const { count, failed, text } = await runElsewhere(tests);
  failures += failed;
  if (failed > 0) print(text);
  const seconds = Math.round((performance.now() - begun) / 1000);
  print(`${tests.id}  ${tests.file}: ${count} tests, ${failed} failed; ${seconds} s`);
}
Deno.exit(failures > 0 ? 1 : 0);
