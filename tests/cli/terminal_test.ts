/** What the terminal shows: numbers, tables, bars, lines, and sentences for what went wrong. */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  CheckpointError,
  DeviceError,
  RequestError,
  SpaceError,
  UnsupportedError,
} from "../../src/errors.ts";
import { parseOption } from "../../src/option.ts";
import type { Event } from "../../src/report.ts";
import { Estimate } from "../../src/terminal/estimate.ts";
import { CheckpointStays, describeFault, EXIT, Interrupted } from "../../src/terminal/faults.ts";
import { COMMANDS } from "../../src/terminal/commands/mod.ts";
import { withFlags } from "../../src/terminal/option_words.ts";
import { barView, describe, jsonView, lineView } from "../../src/terminal/progress.ts";
import { tensorsCsv } from "../../src/terminal/result_view.ts";
import { pairs, table } from "../../src/terminal/table.ts";
import { duration, measured, ranges, visible, visibleMessage } from "../../src/terminal/text.ts";
import { size, sizeToGive } from "../../src/size.ts";
import { keeper } from "./host.ts";

Deno.test("sizes, times and numbers read as a person writes them", () => {
  assert.equal(size(8_131_072), "8.13 MB");
  assert.equal(size(512), "512 B");
  assert.deepEqual(
    [0.04, 9.94, 9.96, 59.4, 59.6, 185, 7830].map(duration),
    ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"],
  );
  assert.deepEqual(
    [0, 19.7321, -0.5, 0.0006, Infinity, -Infinity, NaN].map(measured),
    ["0.0000", "19.7321", "-0.5000", "6.00e-4", "∞", "-∞", "not a number"],
  );
});

Deno.test("a size to give is what an option takes, and never less than what is needed", () => {
  assert.deepEqual([323_720_256, 1_000, 999, 1, 1_005_000, 12_345_678_901_234].map(sizeToGive), [
    "324MB",
    "1kB",
    "999B",
    "1B",
    "1.01MB",
    "12.4TB",
  ]);
  const row = { name: "max-ram", type: "bytes", help: "" } as const;
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e14 }), (bytes) => {
      const given = Number(parseOption(row, sizeToGive(bytes)));
      assert.ok(given >= bytes && given <= 1.01 * bytes + 1, `${bytes}: ${sizeToGive(bytes)}`);
    }),
    { examples: [[2010], [32_300]] },
  );
});

Deno.test("options that the library names are shown as the flags that the command has", async () => {
  const message =
    "Give `numSamples` 3, `budgets.ram` 2GB, `group-size`; `evaluation`, `other` and " +
    "`f(x)` stay.";
  const { flags } = await COMMANDS.find(({ name }) => name === "quantize")!.load();
  assert.equal(
    withFlags(message, (flag) => flags.some(({ name }) => name === flag)),
    "Give --num-samples 3, --max-ram 2GB, --group-size; --evaluate, `other` and `f(x)` stay.",
  );
  assert.equal(withFlags(message, () => false), message);
  const fault = describeFault(new RequestError("Say `force`."), (flag) => flag === "force");
  assert.equal(fault.message, "Say --force.");
});

Deno.test("ranges() folds runs of three and more", () => {
  assert.equal(ranges([7]), "7");
  assert.equal(ranges([1, 0]), "{0,1}");
  assert.equal(ranges([3, 1, 2, 0, 9]), "{0..3,9}");
});

Deno.test("ranges() names exactly the numbers it was given", () => {
  fc.assert(fc.property(fc.uniqueArray(fc.nat(60), { minLength: 1 }), (numbers) => {
    const named = ranges(numbers).replace(/[{}]/g, "").split(",").flatMap((part) => {
      const [from, to = from] = part.split("..").map(Number);
      return Array.from({ length: to! - from! + 1 }, (_, i) => from! + i);
    });
    assert.deepEqual(named, numbers.toSorted((a, b) => a - b));
  }));
});

Deno.test("visible() leaves no character that a terminal acts on", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    // deno-lint-ignore no-control-regex -- control characters are what is looked for
    const acts = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/;
    assert.doesNotMatch(visible(text), acts);
    assert.doesNotMatch(visibleMessage(text), acts);
  }));
});

Deno.test("a table aligns its columns and ends no line with spaces", () => {
  assert.equal(
    table([{ head: "NAME" }, { head: "SIZE", align: "right" }], [["a", "12 kB"], [
      "long name",
      "1 B",
    ]]),
    "NAME        SIZE\na          12 kB\nlong name    1 B\n",
  );
  assert.equal(pairs([["format", "plain"], ["a", ""]]), "format  plain\na\n");
});

/** A clock that is set by hand. */
function handClock(): { now: () => number; tick: (seconds: number) => void } {
  let time = 0;
  return { now: () => time, tick: (seconds) => time += seconds };
}

Deno.test("Estimate learns the speed of weights and of windows apart", () => {
  const { now, tick } = handClock();
  const estimate = new Estimate(now);
  estimate.expect({ bytes: 1000, windows: 10 });
  assert.equal(estimate.left, undefined);
  tick(1);
  estimate.addBytes(500);
  tick(4);
  estimate.setWindows(2);
  // Half of the weights took 1 s, a fifth of the windows 4 s: 1 s and 16 s are left.
  assert.equal(estimate.left, 17);
  assert.equal(estimate.elapsed, 5);
  tick(1);
  estimate.addBytes(500);
  tick(16);
  estimate.setWindows(10);
  assert.equal(estimate.left, 0);
  assert.equal(estimate.share, 1);
});

Deno.test("Estimate learns nothing of copies, counts down, and knows nothing once its time is over", () => {
  const { now, tick } = handClock();
  const estimate = new Estimate(now);
  estimate.expect({ bytes: 1000 });
  tick(1);
  estimate.addCopied(700);
  assert.deepEqual([estimate.share, estimate.left], [0.7, undefined]);
  tick(6);
  estimate.addBytes(200);
  assert.equal(estimate.left, 3);
  tick(2);
  assert.equal(estimate.left, 1);
  tick(2);
  assert.equal(estimate.left, undefined);
});

/**
 * The events of a run of four weights and, if asked for, eight windows through each of four blocks.
 */
function* runEvents(windows: boolean): Generator<Event> {
  yield {
    type: "start",
    what: "model",
    device: "2 threads",
    tensors: 4,
    bytes: 4e8,
    ...(windows ? { windows: 32 } : {}),
  };
  for (let block = 0; block < 4; block++) {
    const name = `layers.${block}`;
    const tensor = {
      name: `${name}.weight`,
      scheme: "int4",
      bitsPerWeight: 4.25,
      metrics: { sqnr_db: 20 },
    };
    yield { type: "quantized", tensor, bytes: 1e8 };
    for (let i = 1; windows && i <= 8; i++) {
      yield { type: "advanced", block: name, done: block * 8 + i, total: 32 };
    }
  }
  yield { type: "warning", code: "x", message: "a\u001b[31mred warning" };
  yield { type: "finished", seconds: 4, peakBytes: 1e8 };
}

Deno.test("lineView() prints the start, warnings, and at most one line per tenth, ending at 100 %", () => {
  for (const windows of [false, true]) {
    const err = keeper();
    const { now, tick } = handClock();
    using view = lineView(err, now);
    for (const event of runEvents(windows)) {
      tick(1);
      view.report(event);
    }
    const lines = err.text().trimEnd().split("\n");
    assert.match(lines[0]!, /^sluice: model: 4 tensors, 400 MB, on 2 threads$/);
    assert.match(lines.at(-1)!, /^sluice: warning: a\\u001b\[31mred warning$/);
    const shares = lines.flatMap((line) => /^sluice: (\d+) %/.exec(line)?.[1] ?? []).map(Number);
    assert.equal(shares.at(-1), 100);
    assert.deepEqual(shares, [...new Set(shares)].sort((a, b) => a - b));
    assert.ok(shares.length <= 10 && shares.length >= 4, lines.join("\n"));
  }
});

Deno.test("lineView() begins anew with a second run", () => {
  const err = keeper();
  using view = lineView(err, () => 0);
  for (const event of [...runEvents(false), ...runEvents(false)]) view.report(event);
  assert.equal(err.text().match(/ 100 %/g)?.length, 2);
});

Deno.test("barView() draws in one line that fits, hides the cursor meanwhile, and clears it at the end", () => {
  for (const columns of [40, 60, 80, 200]) {
    const err = keeper({ isTerminal: true, columns });
    const { now, tick } = handClock();
    {
      using view = barView(err, { colors: false, clock: now });
      for (const event of runEvents(true)) {
        tick(1);
        view.report(event);
      }
    }
    const text = err.text();
    assert.ok(text.includes("█") && text.includes("%") && text.includes("left"), text);
    // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
    assert.equal(text.match(/\u001b\[\?25l/g)?.length, text.match(/\u001b\[\?25h/g)?.length);
    // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
    const drawn = text.split(/\r|\n|\u001b\[1G|\u001b\[\??\d*[A-Za-z]/);
    const bars = drawn.filter((line) => /[█░]/.test(line));
    assert.ok(bars.length > 0);
    for (const line of bars) assert.ok([...line].length <= columns, `${columns}: ${line}`);
  }
});

Deno.test("barView() makes way where a person stops the run, and goes on below what is said then", () => {
  const err = keeper({ isTerminal: true });
  const stop = new AbortController();
  const said = "sluice: Stopping.\n";
  const events = [...runEvents(true)];
  {
    using view = barView(err, { colors: false, signal: stop.signal });
    for (const event of events.slice(0, -3)) view.report(event);
    stop.abort();
    err.write(said);
    for (const event of events.slice(-3, -1)) view.report(event);
  }
  const [before, after] = err.text().split(said) as [string, string];
  assert.ok(before.includes("█") && before.endsWith("\u001b[2K"));
  // It saves its place anew before it goes back to that: it wipes no line but its own.
  const [save, restore] = ["\u001b7", "\u001b8"].map((text) => after.indexOf(text)) as [
    number,
    number,
  ];
  assert.ok(save >= 0 && restore > save, JSON.stringify(after));
});

Deno.test("barView() without colours writes none, and with colours some", () => {
  const draw = (colors: boolean) => {
    const err = keeper({ isTerminal: true });
    using view = barView(err, { colors });
    for (const event of runEvents(false)) view.report(event);
    return err.text();
  };
  // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
  assert.doesNotMatch(draw(false), /\u001b\[\d+m/);
  // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
  assert.match(draw(true), /\u001b\[36m/);
});

Deno.test("jsonView() keeps infinities and NaN as words, so that each line is JSON", () => {
  const out = keeper();
  const metrics = { sqnr_db: Infinity, cosine: NaN };
  jsonView(out).report({
    type: "quantized",
    tensor: { name: "a", scheme: "int4", bitsPerWeight: 4, metrics },
    bytes: 1,
  });
  assert.deepEqual((JSON.parse(out.text()) as { tensor: { metrics: unknown } }).tensor.metrics, {
    sqnr_db: "Infinity",
    cosine: "NaN",
  });
});

Deno.test("describe() of a calibrated weight has its output error, loss, damping and strength", () => {
  const tensor = {
    name: "w",
    scheme: "int4",
    bitsPerWeight: 4.25,
    metrics: { sqnr_db: 20 },
    calibration: { method: "awq+gptq", tokens: 9, outputError: 1e-4, loss: 0.5, damping: 0.01 },
  };
  assert.equal(
    describe({ type: "quantized", tensor, bytes: 1 }),
    "quantized w: int4, 4.250 bits per weight sqnr_db=20.0000 output_error=1.00e-4 loss=0.5000 damping=0.0100",
  );
});

Deno.test("describe() makes one line of every event", () => {
  for (const event of runEvents(true)) assert.match(describe(event), /^[^\n]{5,}$/);
  assert.equal(
    describe({ type: "scored", scores: { perplexity: { perplexity: 37.4 } } }),
    "scored perplexity=37.4000",
  );
});

Deno.test("tensorsCsv() writes no cell that a spreadsheet would run", async () => {
  const csv = await tensorsCsv([
    { name: "=cmd()", scheme: "int4, groups of 64", bitsPerWeight: 4.25, metrics: { sqnr_db: 1 } },
  ]);
  assert.equal(csv.split("\n")[1], `'=cmd(),"int4, groups of 64",4.25,1,,,,`);
});

const noDevice = { kind: "lost", backend: "webgpu" } as const;

for (
  const [error, code, says] of [
    [new RequestError("No."), 1, "No."],
    [new UnsupportedError("No way", { what: "x", reason: "y" }), 1, "No way."],
    [new CheckpointError("Bad\u001b[2J."), 2, "Bad\\u001b[2J."],
    [new DeviceError("Lost.", noDevice), 3, "Lost."],
    [new SpaceError("Full.", { path: "x" }), 5, "Full."],
    [
      new Deno.errors.PermissionDenied("Permission denied (os error 13)"),
      5,
      "Permission denied (os error 13).",
    ],
    [
      new Interrupted(),
      75,
      "Stopped. Nothing was left behind; the same command starts again from the beginning.",
    ],
    [new CheckpointStays("out", { next: undefined, cause: new Interrupted() }), 75, "Stopped."],
    [
      new CheckpointStays("out", { next: undefined, cause: new SpaceError("Full", { path: "x" }) }),
      5,
      "Full.",
    ],
    [
      new SuppressedError(new DeviceError("Lost.", noDevice), new CheckpointError("Bad.")),
      2,
      "Bad.",
    ],
    [
      new Deno.errors.NotCapable(
        'Requires read access to "/a b", run again with the --allow-read flag',
      ),
      1,
      'Deno does not allow read access to "/a b": add --allow-read="/a b" after "deno run".',
    ],
    [
      new SpaceError("Cannot open", {
        path: "x",
        cause: new Deno.errors.NotCapable(
          "Requires write access to <TMP>, run again with the --allow-write flag",
        ),
      }),
      1,
      'Deno does not allow write access to <TMP>: add --allow-write after "deno run".',
    ],
  ] as const
) {
  Deno.test(`${error.name} "${error.message}" ends with exit code ${code}`, () => {
    const fault = describeFault(error);
    assert.deepEqual([EXIT[fault.code], fault.message, fault.stack], [code, says, undefined]);
  });
}

Deno.test("any other exception is called a fault of Sluice, with its stack", () => {
  const fault = describeFault(new RangeError("index 7"));
  assert.equal(fault.code, "bug");
  assert.match(fault.message, /^This is a fault in Sluice/);
  assert.match(fault.stack ?? "", /RangeError: index 7\n +at /);
  assert.equal(describeFault("a string").stack, "a string");
});
