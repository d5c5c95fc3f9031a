// deno-lint-ignore-file no-console
/**
 * Every benchmark, one after the other: ratios, measured side by side in one run. `deno task bench
 * [name…]`
 */
import { run as fileToFile } from "./file_to_file.ts";
import { run as gptq } from "./gptq.ts";
import { run as hubToFile } from "./hub_to_file.ts";
import { formatRatio, type Ratio } from "./measure.ts";
import { run as pack } from "./pack.ts";
import { run as wasmMatmul } from "./wasm_matmul.ts";
import { run as webgpuMatmul } from "./webgpu_matmul.ts";
import { run as wideLayer } from "./wide_layer.ts";

const BENCHES: Readonly<Record<string, () => Promise<Ratio[]>>> = {
  wasm_matmul: wasmMatmul,
  webgpu_matmul: webgpuMatmul,
  pack,
  file_to_file: fileToFile,
  hub_to_file: hubToFile,
  wide_layer: wideLayer,
  gptq,
};

const asked = Deno.args.length > 0 ? Deno.args : Object.keys(BENCHES);
for (const name of asked) {
  const bench = BENCHES[name];
  if (!bench) {
    throw new RangeError(
      `There is no benchmark "${name}"; there are ${Object.keys(BENCHES).join(", ")}`,
    );
  }
  console.log(`\n${name}`);
  for (const ratio of await bench()) console.log(formatRatio(ratio));
}
