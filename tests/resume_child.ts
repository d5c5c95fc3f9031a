/**
 * A run of the sample model that saves after every unit, for whoever kills it: `deno run -A
 * resume_child.ts OUT`. Prints a line when it goes on after units that an earlier one did, and at
 * the end one of what was measured.
 */
import { openWasm } from "../src/backends/wasm/mod.ts";
import { open } from "../src/open.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";

const [out] = Deno.args as [string];
const print = (line: object) => {
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(line)}\n`));
};

await using source = await open("sample");
await using backend = await openWasm({ threads: 1 });
const text = { seqLen: 64, numSamples: 8 };
const evaluation = await prepareWindows(source, text);
const calibration = await prepareCalibration(source, text);
const recipe = recipeFromOptions({ "group-size": 64, "max-shard-size": "1MB" });
const work = plan(recipe, source, {
  device: backend,
  evaluation: requestOf(evaluation),
  calibration: requestOf(calibration),
  resume: true,
});
await using sink = await openFolderSink(out, { resume: true });
const { record, tensors, streamErrors } = await run(work, {
  source,
  backend,
  sink,
  evaluation,
  calibration,
  metrics: true,
  saveShare: Infinity,
  report: (event) => event.type === "resumed" && print(event),
});
print({ type: "made", record, tensors, streamErrors });
