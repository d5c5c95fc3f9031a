/** Budgets and the timeline on the command line. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { budgetsOf } from "../../src/terminal/commands/budgets.ts";
import { denoHost } from "../../cli.ts";
import { inFolder, names, sluice } from "./host.ts";

Deno.test("--max-disk is shared between staged shards and hidden states, and never counted twice", () => {
  const given = new Map<string, number | boolean>([["max-disk", 1001], ["evaluate", true]]);
  const said = {
    arguments: [],
    knows: () => true,
    has: (flag: string) => given.has(flag),
    get: (flag: string) => given.get(flag),
    all: () => [],
  };
  assert.equal(budgetsOf(said, { staged: true }).disk, 500);
  assert.equal(budgetsOf(said, { staged: false }).disk, 1001);
  given.delete("evaluate");
  assert.equal(budgetsOf(said, { staged: true }).disk, 1001);
});

const ON_CPU = ["--device", "wasm"] as const;

Deno.test("quantize refuses a --max-ram that nothing keeps, with the number that would do", () =>
  inFolder(async (folder) => {
    const words = ["quantize", "sample", ...ON_CPU, "--scheme", "NF4", "--output", `${folder}/out`];
    const { code, err } = await sluice([...words, "--quiet", "--max-ram", "50MB"]);
    assert.equal(code, 1);
    assert.match(
      err,
      /^sluice: Cannot keep to --max-ram: this run needs at least \d+ MB\. Give --max-ram \d+MB\.\n$/,
    );
    assert.deepEqual(names(folder), []);
    const least = /Give --max-ram (\S+)\.\n/.exec(err)![1]!;
    assert.equal((await sluice([...words, "--quiet", "--max-ram", least])).code, 0);
  }));

Deno.test("quantize --max-ram measures the same with hidden states on disk", () =>
  inFolder(async (folder) => {
    const words = [
      "quantize",
      "sample",
      // Under a budget fewer windows walk together, of which a BLAS may add products in another order.
      ...[...ON_CPU, "--blas", "none"],
      "--scheme",
      "NF4",
      "--evaluate",
      "--seq-len",
      "128",
      "--num-samples",
      "12",
      "--json",
      "--quiet",
    ];
    const scores = async (more: string[]) => {
      const { code, out, err } = await sluice([...words, ...more]);
      assert.equal(code, 0, err);
      return (JSON.parse(out.trimEnd().split("\n").at(-1)!) as { scores: unknown }).scores;
    };
    const free = await scores(["--output", `${folder}/a`]);
    const plan = await sluice([
      "plan",
      "sample",
      ...ON_CPU,
      "--scheme",
      "NF4",
      "--evaluate",
      "--seq-len",
      "128",
      "--num-samples",
      "12",
      "--json",
    ]);
    const peak = (JSON.parse(plan.out) as { planned_memory: { peak: number } }).planned_memory.peak;
    const tight = await scores(["--output", `${folder}/b`, "--max-ram", String(peak - 2_000_000)]);
    assert.deepEqual(tight, free);
  }));

Deno.test("evaluate keeps hidden states in memory up to half of what the machine has", async () => {
  const words = ["evaluate", "sample", ...ON_CPU, "--seq-len", "32", "--num-samples", "2"];
  const real = denoHost(new AbortController().signal);
  // Two windows of 32 tokens with 256 numbers each.
  const bytes = 2 * 32 * 256 * 4;
  for (const [machine, folders] of [[2 * bytes, 0], [2 * bytes - 2, 1]] as const) {
    let made = 0;
    const { code, err } = await sluice([...words, "--quiet"], {
      machineBytes: () => machine,
      temporaryFolder() {
        made++;
        return real.temporaryFolder();
      },
    });
    assert.deepEqual([code, made], [0, folders], err);
  }
});

Deno.test("quantize --timeline draws an SVG, and --json carries the numbers", () =>
  inFolder(async (folder) => {
    const { code, out, err } = await sluice([
      "quantize",
      "sample",
      ...ON_CPU,
      "--scheme",
      "NF4",
      "--json",
      "--quiet",
      "--timeline",
      `${folder}/t.svg`,
      "--output",
      `${folder}/out`,
    ]);
    assert.equal(code, 0, err);
    const svg = readFileSync(`${folder}/t.svg`, "utf8");
    assert.match(svg, /^<svg [^]*device busy[^]*<\/svg>\s*$/);
    const { timeline, source_bytes } = JSON.parse(out.trimEnd().split("\n").at(-1)!) as {
      timeline: {
        step: number;
        read: number[];
        write: number[];
        compute: number[];
        busy: Record<string, number>;
      };
      source_bytes: number;
    };
    const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
    assert(Math.abs(sum(timeline.read) / source_bytes - 1) < 1e-6);
    assert(sum(timeline.write) > 3e6 && sum(timeline.compute) > 0);
    assert(sum(timeline.compute) <= timeline.step * timeline.compute.length);
  }));
