/**
 * A share of the cases of faults, drawn by chance: all of them are `deno task test:faults`, and one
 * that fails here can be run again by what its message says. SLUICE_TEST_SEED=N draws others.
 */
import assert from "node:assert/strict";
import { SUITES } from "./faults/suites.ts";
import { randoms } from "./tiny.ts";

const SEED = Number(Deno.env.get("SLUICE_TEST_SEED") ?? 1);

for (const { id, title, share, absent, open } of SUITES) {
  // Cases of minutes each are not among the ordinary tests.
  if (share === 0 && absent === undefined) continue;
  Deno.test({
    name: `${id}: ${title}${absent === undefined ? "" : ` (${absent})`}`,
    ignore: absent !== undefined,
    async fn() {
      await using cases = await open(SEED);
      const next = randoms(SEED);
      for (let i = 0; i < Math.min(share, cases.count); i++) {
        const index = Math.floor((next() + 1) / 2 * cases.count);
        try {
          await cases.run(index);
        } catch (cause) {
          throw new Error(
            `deno task test:faults --seed ${SEED} --only ${id}:${index} fails: ${cause}`,
            { cause },
          );
        }
      }
    },
  });
}

for (
  const [words, told, message] of [
    ["--help", 0, /^deno task test:faults \[--seed N\]/],
    ["--sed 1", 1, /^Cannot read the command line: Unknown option '--sed'\. See --help\.\n$/],
    ["--seed x", 1, /^Cannot use --seed "x": it must be a whole number\.\n$/],
    ["--only Z9", 1, /^Cannot use --only "Z9": the suite must be one of C2, .*, U5\.\n$/],
    ["--only=", 1, /^Cannot use --only "": the suite must be one of C2, .*, U5\.\n$/],
    [
      "--only K2:0",
      1,
      /^Cannot use --only "K2:0": K2 is run as a whole, --only K2\. Those .*\.\n$/,
    ],
    ["--only X1:120", 1, /^Cannot use --only "X1:120": X1 has 120 cases, 0 to 119\.\n$/],
    ["--only X1:x", 1, /^Cannot use --only "X1:x": X1 has 120 cases, 0 to 119\.\n$/],
    ["--only X1:", 1, /^Cannot use --only "X1:": X1 has 120 cases, 0 to 119\.\n$/],
  ] as const
) {
  Deno.test(`deno task test:faults ${words} is told in a sentence`, async () => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "tests/faults/main.ts", ...words.split(" ")],
      env: { NO_COLOR: "1" },
    }).output();
    const text = new TextDecoder();
    assert.match(text.decode(told === 0 ? stdout : stderr), message);
    assert.deepEqual([code, (told === 0 ? stderr : stdout).length], [told, 0]);
  });
}
