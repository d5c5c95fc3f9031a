// deno-lint-ignore-file no-console
/**
 * Every benchmark, one after the other, and one table of what came out: Sluice beside rivals and
 * limits that were measured in the same run. `deno task bench [name…]`
 *
 *   SLUICE_BENCH_MODEL     a folder with a Llama, for `gptq`, `evaluate`, `resume` and `workers`
 *   SLUICE_BENCH_PYTHON    a Python that has rivals: torch, bitsandbytes, transformers, llmcompressor
 *   SLUICE_BENCH_TURNS     turns of every contestant; absent: as many as each benchmark needs
 *   SLUICE_BENCH_DEVICE    wasm or webgpu, for `wide_layer` [wasm]
 *   SLUICE_BENCH_CHANNELS  inputs of that layer [14336]
 */
import { run as backward } from "./backward.ts";
import { run as evaluate } from "./evaluate.ts";
import { run as fileToFile } from "./file_to_file.ts";
import { run as gptq } from "./gptq.ts";
import { run as hubToFile } from "./hub_to_file.ts";
import { formatRatios, type Ratio, type Skipped } from "./measure.ts";
import { run as pack } from "./pack.ts";
import { run as resume } from "./resume.ts";
import { run as wasmMatmul } from "./wasm_matmul.ts";
import { run as webgpuMatmul } from "./webgpu_matmul.ts";
import { run as wideLayer } from "./wide_layer.ts";
import { run as workers } from "./workers.ts";

const BENCHES: Readonly<Record<string, (turns?: number) => Promise<(Ratio | Skipped)[]>>> = {
  wasm_matmul: wasmMatmul,
  webgpu_matmul: webgpuMatmul,
  backward,
  pack,
  file_to_file: fileToFile,
  hub_to_file: hubToFile,
  resume,
  workers,
  wide_layer: wideLayer,
  evaluate,
  gptq,
};

const asked = Deno.args.length > 0 ? Deno.args : Object.keys(BENCHES);
const unknown = asked.find((name) => !Object.hasOwn(BENCHES, name));
if (unknown !== undefined) {
  console.error(
    `There is no benchmark "${unknown}"; there are ${Object.keys(BENCHES).join(", ")}.`,
  );
  Deno.exit(2);
}
const wanted = Deno.env.get("SLUICE_BENCH_TURNS");
const turns = wanted === undefined ? undefined : Number(wanted);
if (turns !== undefined && !(Number.isInteger(turns) && turns > 0)) {
  throw new RangeError(`SLUICE_BENCH_TURNS is a number of turns, 1 or more, not "${wanted}"`);
}
const results: (Ratio | Skipped)[] = [];
try {
  for (const name of asked) {
    const begun = performance.now();
    console.error(`${name} …`);
    results.push(...await BENCHES[name]!(turns));
    console.error(`${name} took ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  }
} finally {
  // Also when a later benchmark failed: what was measured took long.
  console.log(formatRatios(results));
}
