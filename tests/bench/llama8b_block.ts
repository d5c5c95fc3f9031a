// deno-lint-ignore-file no-console
/**
 * Blocks of a large model's sizes, calibrated: seconds a block by phase, waits for a GPU and bytes to
 * and from it, TFLOP/s, memory planned and measured. The weights are made up, so that nothing is
 * downloaded.
 *
 *   deno run -A tests/bench/llama8b_block.ts [--device webgpu] [--like llama-70b] [--method gptq]
 *       [--blocks 1] [--windows 128] [--seq-len 512] [--python PATH]
 *
 * --method gptq is what llm-compressor's GPTQ does; default is AWQ with GPTQ, propagation and
 * sweeps. A Python that has llmcompressor (--python, or SLUICE_BENCH_PYTHON) does the same blocks and
 * windows.
 */
import { resourceUsage } from "node:process";
import { parseArgs } from "node:util";
import { openBackend, plan, recipeFromOptions, run } from "../../mod.ts";
import { counted } from "../counted.ts";
import { nowhereSink } from "../memory.ts";
import { size } from "../../src/size.ts";
import { table } from "../../src/terminal/table.ts";
import { blockModel, SIZES, tokenWindows } from "./block_model.ts";
import { findPython, runScript } from "./environment.ts";
import { counting } from "./multiply_adds.ts";

const METHODS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  gptq: {
    method: "gptq",
    propagate: false,
    "unsigned-scales": true,
    scale: "minmax",
    sweeps: 0,
  },
  default: {},
};

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "auto" },
    blas: { type: "string" },
    like: { type: "string", default: "llama-8b" },
    method: { type: "string", default: "default" },
    blocks: { type: "string", default: "1" },
    windows: { type: "string", default: "128" },
    "seq-len": { type: "string", default: "512" },
    python: { type: "string" },
  },
});
const sizes = SIZES[values.like as keyof typeof SIZES];
const options = METHODS[values.method];
if (!sizes || !options) {
  throw new RangeError(
    `--like is one of ${Object.keys(SIZES).join(", ")}; --method of ${
      Object.keys(METHODS).join(", ")
    }`,
  );
}
const [blocks, count, seqLen] = [values.blocks, values.windows, values["seq-len"]].map(Number) as [
  number,
  number,
  number,
];

await using device = await openBackend(
  values.device as "auto" | "webgpu" | "wasm",
  values.blas === undefined ? {} : { blas: values.blas },
);
const memory = counted(device);
const { backend, taken } = counting(memory.backend);
await using source = blockModel(sizes, { blocks });
const windows = tokenWindows({ count, seqLen });
const calibration = { windows, seqLen, stateBudget: 16e9 };
const work = plan(
  recipeFromOptions({ scheme: "W4A16", "group-size": 64, ...options }),
  source,
  {
    device: backend,
    calibration: { windows: count, seqLen, stateBudget: calibration.stateBudget },
  },
);
console.log(
  `${blocks} × ${values.like}, ${values.method}, ${count} × ${seqLen} tokens, on ${device.name}: ${device.description}`,
);
const report = await run(work, { source, backend, sink: nowhereSink(), calibration });

const whole = (value: number) => value.toFixed(0);
const COLUMNS: readonly (readonly [head: string, format: (value: number) => string])[] = [
  ["seconds", (seconds) => seconds.toFixed(2)],
  ...["waits", "read-backs", "dispatches"].map((head) => [head, whole] as const),
  ...["up", "down"].map((head) => [head, size] as const),
];
const phases = Object.entries(report.phases.total).map((
  [phase, { seconds, traffic: t }],
): [string, number[]] => [
  phase,
  t ? [seconds, t.waits, t.reads, t.dispatches, t.uploaded, t.downloaded] : [seconds],
]).sort(([, [a = 0]], [, [b = 0]]) => b - a);
const columns = COLUMNS.slice(0, phases[0]![1].length);
const all = columns.map((_, i) => phases.reduce((sum, [, values]) => sum + values[i]!, 0));
console.log(table(
  [{ head: "of a block" }, ...columns.map(([head]) => ({ head, align: "right" as const }))],
  [...phases, ["in all", all] as const].map(([name, values]) => [
    name,
    ...columns.map(([, format], i) => format(values[i]! / blocks)),
  ]),
));
const walked = report.phases.total.walk?.seconds ?? NaN;
const flops = 2 * taken();
const peak = resourceUsage().maxRSS * 1024;
console.log(
  `products: ${(flops / 1e12).toFixed(2)} TFLOP, ${
    (flops / report.seconds / 1e12).toFixed(3)
  } TFLOP/s over the run, at most ${(flops / walked / 1e12).toFixed(3)} in walks`,
);
console.log(
  `memory: ${size(peak)} at most, planned ${size(work.memory.peak)} (${
    (work.memory.peak / peak).toFixed(2)
  } ×); on the device ${size(memory.peakBytes())}, planned ${size(work.memory.device)} (${
    (work.memory.device / memory.peakBytes()).toFixed(2)
  } ×)`,
);
const found = values.python
  ? { python: values.python }
  : await findPython("torch", "llmcompressor");
if ("skipped" in found) console.log(`llm-compressor was not run. ${found.skipped}`);
else {
  const asked = JSON.stringify({ ...sizes, blocks, windows: count, seqLen });
  const theirs = await runScript(found.python, "llm_compressor_block.py", [asked]) as {
    readonly seconds: number;
    readonly device: string;
  };
  console.log(
    `llm-compressor's GPTQ on ${theirs.device}: ${
      (theirs.seconds / blocks).toFixed(2)
    } s a block, ${(theirs.seconds / report.seconds).toFixed(2)} × ours`,
  );
}
