/**
 * Sensitivities in every architecture: matrices that are turned, fused, or with biases, branches in
 * parallel; and a choice of bits that is planned.
 */
import assert from "node:assert/strict";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { bitOptions, chooseBits, measureSensitivities } from "../../src/bits.ts";
import { requestOf } from "../../src/plan/planned.ts";
import { plan } from "../../src/plan.ts";
import { type Recipe, recipeFromOptions } from "../../src/recipe.ts";
import { run } from "../../src/run.ts";
import { openNowhere } from "../../src/sinks/nowhere.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { checkpointOf, MODELS } from "./given.ts";

const BASE = recipeFromOptions({ "group-size": -1, method: "rtn" });
const OPTIONS = ["W4A16", "W8A16"];

for (const name of MODELS.filter((name) => !name.includes("."))) {
  Deno.test(`sensitivities of ${name} are what runs that quantize one group measure`, async () => {
    await using made = await checkpointOf(name);
    await using source = await openCheckpoint(made.path);
    await using backend = await openWasm({ threads: 1 });
    const work = bitOptions(BASE, source, { options: OPTIONS, device: backend });
    const windows = [0, 1].map((w) => Uint32Array.from({ length: 8 }, (_, i) => 3 * i + w));
    const input = { windows, stateBudget: 1e8 };
    const sensitivities = await measureSensitivities(source, work, { backend, windows: input });
    for (const [i, { names }] of work.groups.entries()) {
      // One of each block's groups, another each time.
      if (i % 3 !== 0) continue;
      const rules = names.map((match) => ({ ...BASE.rules[0]!, match, scheme: "W4A16" }));
      const recipe: Recipe = { ...BASE, rules };
      const request = requestOf({ ...input, seqLen: 8 });
      const alone = plan(recipe, source, { device: backend, evaluation: request });
      await using sink = openNowhere();
      const { scores } = await run(alone, { source, backend, sink, evaluation: input });
      const [own, expected] = [
        sensitivities.groups[i]!.losses.W4A16!,
        scores.divergence!.mean!,
      ];
      assert.ok(
        Math.abs(own - expected) <= 1e-5 * expected + 1e-9,
        `${names}: ${own}, ${expected}`,
      );
    }
    const { recipe, bitsPerWeight } = chooseBits(source, work, {
      sensitivities,
      target: { bitsPerWeight: 7.5 },
      device: backend,
    });
    assert.ok(bitsPerWeight <= 7.5 && bitsPerWeight > 4);
    assert.ok(plan(recipe, source, { device: backend }).quantizedWeights > 0);
  });
}
