/** The flags that say what text a model is calibrated on, and what text it is measured on. */
import assert from "node:assert/strict";
import { denoHost } from "../../cli.ts";
import type { PreparedWindows } from "../../src/windows.ts";
import type { Event } from "../../src/report.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../../src/sources/sample.ts";
import type { ParsedArguments } from "../../src/terminal/command.ts";
import { readCalibration, readWindows } from "../../src/terminal/commands/flags.ts";
import { COMMANDS } from "../../src/terminal/commands/mod.ts";
import { parseArguments } from "../../src/terminal/parser.ts";
import { keeper, sluice } from "./host.ts";

const HOST = { ...denoHost(new AbortController().signal), colors: false, out: keeper() };

async function said(line: string): Promise<ParsedArguments> {
  const parsed = await parseArguments(line.split(" "), COMMANDS, HOST);
  assert.ok(parsed);
  return parsed.given;
}

/** What a command line asks for, as numbers. */
async function windowsOf(
  read: typeof readWindows,
  line: string,
  events: Event[] = [],
): Promise<[windows: number, seqLen: number]> {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const { windows, seqLen }: PreparedWindows = await read(await said(line), source, {
    host: HOST,
    report: (event) => void events.push(event),
  });
  return [windows.length, seqLen];
}

Deno.test("--num-samples and --seq-len are the calibration's and, unless said otherwise, the measurement's", async () => {
  const both = async (line: string) => [
    await windowsOf(readCalibration, line),
    await windowsOf(readWindows, line),
  ];
  // Of the model's 1024 positions the calibration uses 512 unless told; the measurement takes all
  // windows.
  assert.deepEqual(await both("plan sample"), [[128, 512], [122, 1024]]);
  assert.deepEqual(await both("plan sample --num-samples 3 --eval-seq-len 32"), [[3, 512], [
    3,
    32,
  ]]);
  assert.deepEqual(await both("plan sample --eval-num-samples 2"), [[128, 512], [2, 1024]]);
  const quantize = "quantize sample --output out --num-samples 3 --seq-len 64";
  assert.deepEqual(await both(quantize), [[3, 64], [3, 64]]);
  assert.deepEqual(
    await both(`${quantize} --eval-num-samples 5 --eval-seq-len 128`),
    [[3, 64], [5, 128]],
  );
  const line = "evaluate sample --num-samples 4 --seq-len 96";
  assert.deepEqual(await windowsOf(readWindows, line), [4, 96]);
});

Deno.test("--calibration names the text; only the sample that nobody asked for comes with a warning", async () => {
  const codes = async (flags: string) => {
    const events: Event[] = [];
    await windowsOf(readCalibration, `plan sample --num-samples 2 --seq-len 64${flags}`, events);
    return events.map((event) => event.type === "warning" && event.code);
  };
  assert.deepEqual(await codes(""), ["sample-calibration"]);
  assert.deepEqual(await codes(" --calibration sample"), []);
  assert.deepEqual(await codes(" --calibration LICENSE --seed 5"), []);
  await assert.rejects(
    codes(" --calibration none.jsonl"),
    /"none\.jsonl".*for calibration: .*no such file/,
  );
});

Deno.test("--seed draws the windows to calibrate on, and not those to measure", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const read = async (how: typeof readWindows, flags: string) => {
    const words = await said(`plan sample --num-samples 4 --seq-len 64${flags}`);
    return (await how(words, source, { host: HOST, report: () => {} })).windows;
  };
  assert.deepEqual(
    await read(readCalibration, " --seed 1"),
    await read(readCalibration, " --seed 1"),
  );
  assert.notDeepEqual(await read(readCalibration, " --seed 1"), await read(readCalibration, ""));
  assert.deepEqual(await read(readWindows, " --seed 1"), await read(readWindows, ""));
});

Deno.test("numbers that make no windows are refused, and evaluate has no flags of a calibration", async () => {
  for (
    const [line, says] of [
      ["plan sample --num-samples 0", /--num-samples "0": it must be a whole number of at least 1/],
      ["plan sample --seq-len 1", /--seq-len "1": it must be a whole number of at least 2/],
      ["plan sample --eval-seq-len 1", /--eval-seq-len "1": it must be/],
      ["plan sample --eval-num-samples x", /--eval-num-samples "x": it must be/],
      ["plan sample --seed 4294967296", /--seed "4294967296": .*from 0 to 4294967295/],
      ["evaluate sample --seed 1", /Unknown option '--seed'/],
      ["evaluate sample --eval-seq-len 64", /Unknown option '--eval-seq-len'/],
    ] as const
  ) {
    const { code, err } = await sluice(line.split(" "));
    assert.equal(code, 1, line);
    assert.match(err, says);
  }
});

Deno.test("what says how the CPU computes is refused beside --device webgpu", async () => {
  for (const flag of ["--blas none", "--blas auto", "--threads 2"]) {
    const words = ["plan", "sample", "--scheme", "NF4", "--device", "webgpu", ...flag.split(" ")];
    const { code, err } = await sluice(words);
    assert.equal(code, 1, err);
    assert.match(err, new RegExp(`Cannot use ${flag.split(" ")[0]} with --device webgpu`));
  }
});

Deno.test("flags of what is not done are refused, not passed over", async () => {
  const words = ["quantize", "sample", "--scheme", "W8A16", "--output", "none", "--quiet"];
  for (
    const [more, says] of [
      [["--corpus", "text.txt"], /--corpus without --evaluate: nothing is measured/],
      [["--eval-seq-len", "64"], /--eval-seq-len without --evaluate/],
      [["--branch", "next"], /--branch without --upload-repo: nothing is published/],
      [["--force"], /--force without --upload-repo/],
      [["--num-samples", "4"], /--num-samples: no weight is quantized by a method that calibrates/],
      [["--seq-len", "64"], /--seq-len: no weight is quantized by a method that/],
      [
        ["--evaluate", "--num-samples", "4", "--eval-num-samples", "2"],
        /--num-samples: no weight is quantized by a method that calibrates/,
      ],
      [["--no-propagate"], /--no-propagate: no weight is quantized/],
      [["--propagate"], /--propagate: no weight is quantized by a method that calibrates/],
      [["--calibrate-on", "float"], /--calibrate-on: no weight is quantized by a method that/],
    ] as const
  ) {
    const { code, err } = await sluice([...words, "--device", "wasm", ...more]);
    assert.equal(code, 1, err);
    assert.match(err, says);
  }
});

Deno.test("a flag whose value was left out is named, not what comes after it", async () => {
  for (const flag of ["gradients", "weight-loss", "ignore"]) {
    await assert.rejects(() => said(`plan sample --${flag} --num-samples 4`), {
      name: "RequestError",
      message: `Cannot use --${flag}: it has no value, "--num-samples" comes next.`,
    });
  }
});

Deno.test("every boolean can be said no, as a batch says what is false", async () => {
  const words = ["plan", "sample", "--scheme", "NF4", "--device", "wasm"];
  const plain = await sluice(words);
  const no = await sluice([...words, "--no-evaluate"]);
  assert.deepEqual(no, plain);
  const both = await sluice([...words, "--no-evaluate", "--evaluate"]);
  assert.match(both.err, /Cannot use --no-evaluate and --evaluate together/);
});
