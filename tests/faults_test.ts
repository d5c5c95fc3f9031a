/**
 * A share of the cases of faults, drawn by chance: all of them are `deno task test:faults`, and one
 * that fails here can be run again by what its message says. SLUICE_TEST_SEED=N draws others.
 */
import { SUITES } from "./faults/suites.ts";
import { randoms } from "./tiny.ts";

const SEED = Number(Deno.env.get("SLUICE_TEST_SEED") ?? 1);

for (const { id, title, share, absent, open } of SUITES) {
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
