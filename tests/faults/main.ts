/**
 * All cases of faults that are counted, by their names in the plan of faults: `deno task test:faults
 * --seed N --only ID:INDEX`. Prints of each suite how many there are, and what became of them; a
 * case that fails is named so that it can be run again alone. Those that are tests of their own are
 * counted by test.
 */
import { RequestError } from "../../src/errors.ts";
import { type Asked, asked, chosenOf, USAGE } from "./asked.ts";
import { ELSEWHERE, runElsewhere } from "./elsewhere.ts";
import { SUITES } from "./suites.ts";

// deno-lint-ignore no-console -- the counts are for whoever runs this
const print = console.log;

/** Milliseconds after which it is told again how far a suite is. */
const MINUTE = 60_000;

/** Run what is asked for; how many failed. */
async function runAll(what: Asked): Promise<number> {
  const { seed, only, index } = what;
  let failures = 0;
  for (const { id, title, absent, open } of SUITES) {
    if (only !== undefined && id !== only) continue;
    if (absent !== undefined) {
      print(`${id}  not run: ${absent}`);
      continue;
    }
    const begun = performance.now();
    await using cases = await open(seed);
    const chosen = chosenOf(what, cases.count);
    const counts = new Map<string, number>();
    let [failed, told] = [0, begun];
    for (const [done, i] of chosen.entries()) {
      if (performance.now() - told > MINUTE) {
        told = performance.now();
        print(`${id}  ${done} of ${chosen.length} cases, ${failed} failed`);
      }
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
    const outcomes = [...counts].map(([became, n]) => `${n} ${became}`).join(", ");
    const seconds = Math.round((performance.now() - begun) / 1000);
    print(`${id}  ${title}: ${chosen.length} cases, ${failed} failed; ${outcomes}; ${seconds} s`);
  }
  for (const tests of ELSEWHERE) {
    if (index !== undefined || only !== undefined && tests.id !== only) continue;
    const begun = performance.now();
    const { count, failed, cases, text } = await runElsewhere(tests, seed);
    failures += failed;
    if (failed > 0) print(text);
    const seconds = Math.round((performance.now() - begun) / 1000);
    const counted = cases > 0 ? ` of ${cases} cases` : "";
    print(`${tests.id}  ${tests.file}: ${count} tests${counted}, ${failed} failed; ${seconds} s`);
  }
  return failures;
}

/** The exit code of a command line. */
async function main(args: readonly string[]): Promise<number> {
  const counted = SUITES.map(({ id }) => id);
  try {
    const what = asked(args, [...new Set([...counted, ...ELSEWHERE.map(({ id }) => id)])], counted);
    if (what.help) {
      print(USAGE.trimEnd());
      return 0;
    }
    return await runAll(what) > 0 ? 1 : 0;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    // deno-lint-ignore no-console -- as above
    console.error(error.message);
    return 1;
  }
}

Deno.exit(await main(Deno.args));
