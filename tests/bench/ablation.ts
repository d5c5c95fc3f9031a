// deno-lint-ignore-file no-console
/**
 * What each setting of calibrated quantization is worth: a model is quantized once per setting and
 * measured in the same pass. `deno run -A tests/bench/ablation.ts [model] [flags]` writes
 * ablation.csv and ablation.md into --out and prints the rows as they come; rows that the CSV has
 * already are not made again. Flags: --calibration and --corpus (texts), --windows and --seq-len,
 * --eval-windows and --eval-seq-len, --scheme and --group-size, --only (a regular expression of
 * names), --device, --out.
 */
import { parseArgs } from "node:util";
import {
  type Backend,
  needsCalibration,
  open,
  openBackend,
  plan,
  prepareCalibration,
  type PreparedWindows,
  prepareWindows,
  recipeFromOptions,
  run,
  type TensorSource,
} from "../../mod.ts";
import { nowhereSink } from "../memory.ts";

/** A setting: its name, and what differs from the defaults. */
type Setting = readonly [name: string, options: Readonly<Record<string, unknown>>];

const SETTINGS: readonly Setting[] = [
  ["default", {}],
  // 0.01 is the default where tokens are not few.
  ...[0.001, 0.003, 0.03, 0.1].map((damping): Setting => [
    `damping ${damping}`,
    { damping },
  ]),
  // 2 is the default.
  ["sweeps 0", { sweeps: 0 }],
  ["sweeps 1", { sweeps: 1 }],
  ["sweeps 5", { sweeps: 5 }],
  ["refit", { refit: true }],
  ["order group-aware", { "column-order": "group-aware" }],
  ["order natural", { "column-order": "natural" }],
  ["order natural, refit", { "column-order": "natural", refit: true }],
  ...["minmax", "mse", "frobenius"].map((scale): Setting => [`scale ${scale}`, { scale }]),
  ["scale minmax, refit", { scale: "minmax", refit: true }],
  ["unsigned scales", { "unsigned-scales": true }],
  ["no propagation", { propagate: false }],
  ["calibrated on float", { "calibrate-on": "float" }],
  ["no awq", { method: "gptq" }],
  ["no awq, no propagation", { method: "gptq", propagate: false }],
  ["no awq, no propagation, sweeps 0", { method: "gptq", propagate: false, sweeps: 0 }],
  ["awq+rtn", { method: "awq+rtn" }],
  ["rtn", { method: "rtn" }],
  ["hqq", { method: "hqq" }],
  ["rtn, scale frobenius", { method: "rtn", scale: "frobenius" }],
];

/** One row of the table. */
interface Row {
  readonly name: string;
  readonly divergence: number;
  /** Standard error of the divergence. */
  readonly error: number;
  readonly perplexity: number;
  readonly original: number;
  readonly seconds: number;
}

const HEAD = ["setting", "kl", "kl_error", "perplexity", "original_perplexity", "seconds"];

async function measure(
  [name, options]: Setting,
  { source, backend, base, calibration, evaluation }: {
    source: TensorSource;
    backend: Backend;
    base: Readonly<Record<string, unknown>>;
    calibration: PreparedWindows;
    evaluation: PreparedWindows;
  },
): Promise<Row> {
  const recipe = recipeFromOptions({ ...base, ...options });
  const request = ({ seqLen, windows, stateBudget }: PreparedWindows) => ({
    seqLen,
    windows: windows.length,
    stateBudget,
  });
  const calibrated = needsCalibration(recipe, source);
  const work = plan(recipe, source, {
    device: backend,
    evaluation: request(evaluation),
    ...(calibrated ? { calibration: request(calibration) } : {}),
  });
  await using sink = nowhereSink();
  const { scores, seconds } = await run(work, {
    source,
    backend,
    sink,
    evaluation,
    ...(calibrated ? { calibration } : {}),
  });
  return {
    name,
    divergence: scores.divergence!.mean!,
    error: scores.divergence!.standard_error!,
    perplexity: scores.perplexity!.perplexity!,
    original: scores.perplexity!.original_perplexity!,
    seconds,
  };
}

function csvLine({ name, divergence, error, perplexity, original, seconds }: Row): string {
  const numbers = [divergence, error, perplexity, original].map((value) => value.toPrecision(8));
  return [`"${name}"`, ...numbers, seconds.toFixed(1)].join(",");
}

/** The rows that a CSV has. */
async function readRows(path: string): Promise<Row[]> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return text.trimEnd().split("\n").slice(1).map((line) => {
    const [, name = "", rest = ""] = /^"(.*)",(.*)$/.exec(line) ?? [];
    const [divergence = 0, error = 0, perplexity = 0, original = 0, seconds = 0] = rest.split(",")
      .map(Number);
    return { name, divergence, error, perplexity, original, seconds };
  });
}

function markdown(rows: readonly Row[], about: string): string {
  const [first] = rows;
  const lines = rows.map(({ name, divergence, error, perplexity, original, seconds }) => {
    const change = (to: number, from: number, digits: number) =>
      `${to < from ? "−" : "+"}${Math.abs(100 * (to / from - 1)).toFixed(digits)} %`;
    const cells = [
      name,
      `${divergence.toFixed(5)} ± ${error.toFixed(5)}`,
      change(divergence, first!.divergence, 1),
      perplexity.toFixed(3),
      change(perplexity, original, 2),
      seconds.toFixed(0),
    ];
    return `| ${cells.join(" | ")} |`;
  });
  return [
    about,
    "",
    `| setting | KL, nats per token | against ${first?.name} | perplexity | against the original | seconds, measuring included |`,
    "|---|---|---|---|---|---|",
    ...lines,
    "",
  ].join("\n");
}

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    calibration: { type: "string", default: "sample" },
    corpus: { type: "string", default: "sample" },
    windows: { type: "string", default: "64" },
    "seq-len": { type: "string", default: "512" },
    "eval-windows": { type: "string", default: "32" },
    "eval-seq-len": { type: "string", default: "512" },
    scheme: { type: "string", default: "W4A16" },
    "group-size": { type: "string", default: "64" },
    only: { type: "string", default: "" },
    device: { type: "string", default: "auto" },
    out: { type: "string", default: "." },
  },
});
const model = positionals[0] ?? "sample";
await using source = await open(model);
await using backend = await openBackend(flags.device as "auto" | "webgpu" | "wasm");
const calibration = await prepareCalibration(source, {
  corpus: flags.calibration,
  numSamples: Number(flags.windows),
  seqLen: Number(flags["seq-len"]),
});
const evaluation = await prepareWindows(source, {
  corpus: flags.corpus,
  numSamples: Number(flags["eval-windows"]),
  seqLen: Number(flags["eval-seq-len"]),
});
const base = { scheme: flags.scheme, "group-size": flags["group-size"] };
await Deno.mkdir(flags.out, { recursive: true });
const csv = `${flags.out}/ablation.csv`;
const rows = await readRows(csv);
const about = `${source.label.split("/").at(-1)}, ${flags.scheme} in groups of ${
  flags["group-size"]
}, calibrated on ${calibration.windows.length} × ${calibration.seqLen} tokens, measured on ${evaluation.windows.length} × ${evaluation.seqLen}; ${backend.description}`;
console.log(about);
const wanted = new RegExp(flags.only);
for (const setting of SETTINGS) {
  const [name] = setting;
  if (!wanted.test(name) || rows.some((row) => row.name === name)) continue;
  const row = await measure(setting, { source, backend, base, calibration, evaluation });
  rows.push(row);
  console.log(csvLine(row));
  await Deno.writeTextFile(csv, [HEAD.join(","), ...rows.map(csvLine), ""].join("\n"));
  await Deno.writeTextFile(`${flags.out}/ablation.md`, markdown(rows, about));
}
