import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
await using source = await openCheckpoint("/work/tmp/scales/smollm2");
await using backend = await openWasm({ threads: 2 });
const p = plan(recipeFromOptions({ scheme: "NF4" }), source, { device: backend });
const times: Record<string, number[]> = { a: [], b: [] };
for (let i = 0; i < 16; i++) {
  const resume = i % 2 === 0;
  await using sink0 = await openFolderSink("/tmp/ph", { resume });
  const t: Record<string, number> = {};
  const sink = {
    ...sink0,
    commit: async () => {
      const b = performance.now();
      await sink0.commit();
      t.commit = performance.now() - b;
    },
  };
  const b = performance.now();
  const r = await run(p, {
    source,
    backend,
    sink,
    ...(Deno.args[0] ? { saveShare: Number(Deno.args[0]) } : {}),
  });
  const all = performance.now() - b;
  await Deno.remove("/tmp/ph", { recursive: true });
  times[resume ? "a" : "b"]!.push(all);
  console.log(
    resume,
    all.toFixed(0),
    JSON.stringify(t),
    JSON.stringify(
      Object.fromEntries(
        Object.entries(r.phases.total).map(([k, v]) => [k, Math.round(v!.seconds * 1000)]),
      ),
    ),
  );
}
for (const [k, v] of Object.entries(times)) console.log(k, v.sort((x, y) => x - y)[4]);
