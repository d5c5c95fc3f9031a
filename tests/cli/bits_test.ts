/** Bits for each layer on the command line: measured, kept in files, chosen, planned and made. */
import assert from "node:assert/strict";
import type { Sensitivities } from "../../src/bits/sensitivities.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, names, sluice } from "./host.ts";

const PLAN = ["plan", "sample", "--group-size", "64", "--device", "wasm", "--seq-len", "64"];

Deno.test("plan measures, keeps what it measured and the recipe it chose, and both give the same plan again", () =>
  inFolder(async (folder) => {
    const [losses, recipe] = [`${folder}/losses.json`, `${folder}/recipe.json`];
    const target = ["--target-bpw", "4.5"];
    const keep = ["--save-sensitivities", losses, "--save-recipe", recipe];
    const first = await sluice([...PLAN, ...target, "--sensitivity-samples", "2", ...keep]);
    assert.equal(first.code, 0, first.err);
    assert.match(first.err, /measuring sensitivities on sample, 2 of [\d,]+ windows of 64 tokens/);
    assert.match(first.out, /^BLOCK +self_attn\.q_proj, k_proj, v_proj +self_attn\.o_proj +mlp/);
    assert.match(
      first.out,
      /^16 groups at 4\.[2-5]\d* bits per weight; losses add up to 0\.\d+ \(KL/m,
    );

    const kept = JSON.parse(await Deno.readTextFile(losses)) as Sensitivities;
    assert.equal(kept.groups.length, 16);
    assert.equal(kept.text!.windows, 2);
    for (const { losses: { W3A16, W4A16, W8A16 } } of kept.groups) {
      assert.ok(W3A16! > W4A16! && W4A16! > W8A16! && W8A16! >= 0);
    }

    const again = await sluice([...PLAN, "--avg-bits", "4.5", "--sensitivities", losses]);
    assert.equal(again.out, first.out);
    const planOf = (out: string) => out.slice(out.indexOf("\nTENSORS"));
    const words = ["plan", "sample", "--device", "wasm", "--seq-len", "64", "--recipe", recipe];
    assert.equal((await sluice(words)).out, planOf(first.out).slice(1));
  }));

Deno.test("a measurement that was stopped goes on by the same command, and is not made twice", () =>
  inFolder(async (folder) => {
    // Under a budget candidates are measured one by one.
    const measure = (file: string) => [
      ...[...PLAN, "--target-bpw", "4.5", "--sensitivity-samples", "1", "--max-ram", "600MB"],
      ...["--options", "W3A16,W4A16", "--save-sensitivities", `${folder}/${file}`],
    ];
    const whole = await sluice(measure("whole.json"));
    assert.equal(whole.code, 0, whole.err);
    const stop = new AbortController();
    let saves = 0;
    const stopped = await sluice(measure("losses.json"), {
      signal: stop.signal,
      async writeText(path, text) {
        await Deno.writeTextFile(path, text);
        if (++saves === 5) stop.abort(new Error("stopped"));
      },
    });
    assert.notEqual(stopped.code, 0);
    const early = await sluice([
      ...[...PLAN, "--target-bpw", "4.5", "--sensitivities", `${folder}/losses.json`],
    ]);
    assert.match(early.err, /their measurement was stopped\. Run the command that measures them/);
    const again = await sluice(measure("losses.json"));
    assert.equal(again.code, 0, again.err);
    assert.match(again.err, /going on after 5 that .*losses\.json has/);
    assert.equal(again.out, whole.out);
    const [one, two] = await Promise.all(
      ["whole", "losses"].map((name) => Deno.readTextFile(`${folder}/${name}.json`)),
    );
    assert.deepEqual(JSON.parse(two!), JSON.parse(one!));
    const third = await sluice(measure("losses.json"));
    assert.match(third.err, /losses\.json has these sensitivities: they are not measured again/);
    assert.equal(third.out, whole.out);
    const other = await sluice([...measure("losses.json"), "--options", "W2A16,W4A16"]);
    assert.doesNotMatch(other.err, /going on after|not measured again/, "another measurement");
  }));

Deno.test("a memory that measuring does not keep to is refused before it begins, with what would do", () =>
  inFolder(async () => {
    const words = [...PLAN, "--target-bpw", "4.5", "--sensitivity-samples", "4", "--max-ram"];
    const { code, err } = await sluice([...words, "250MB"]);
    assert.equal(code, 1);
    assert.match(
      err,
      /--max-ram: measuring sensitivities needs (\S+)\. Give --max-ram \1, fewer windows/,
    );
    assert.doesNotMatch(err, /of memory at most/, "nothing has begun");
  }));

Deno.test("quantize makes what was chosen within a size, and its record has the recipe", () =>
  inFolder(async (folder) => {
    const words = ["quantize", "sample", "--group-size", "64", "--device", "wasm"];
    const { code, err } = await sluice([
      ...[...words, "--method", "rtn", "--target-size", "3.9MB", "--calibration", "sample"],
      ...["--seq-len", "64", "--sensitivity-samples", "1", "--output", `${folder}/out`],
      ...["--save-recipe", `${folder}/recipe.json`],
    ]);
    assert.equal(code, 0, err);
    const size = names(`${folder}/out`).filter((name) => name !== "sluice.json")
      .reduce((all, name) => all + Deno.statSync(`${folder}/out/${name}`).size, 0);
    assert.ok(size <= 3.9e6 && size > 3.6e6, `${size}`);
    const record = JSON.parse(await Deno.readTextFile(`${folder}/out/sluice.json`));
    const recipe = JSON.parse(await Deno.readTextFile(`${folder}/recipe.json`));
    assert.deepEqual(record.recipe, recipe);
    assert.match(record.command, /--target-size 3900000 .*--sensitivity-samples 1/);
    assert.doesNotMatch(record.command, /save-recipe/);
    const config = JSON.parse(await Deno.readTextFile(`${folder}/out/config.json`));
    const groups = Object.values<{ weights: { num_bits: number } }>(
      config.quantization_config.config_groups,
    );
    const widths = groups.map(({ weights }) => weights.num_bits);
    assert.ok(widths.length > 1 && new Set(widths).size === widths.length, "a group per width");
    assert.equal(config.quantization_config.format, "pack-quantized");
  }));

Deno.test("losses of an earlier run's report serve as sensitivities", () =>
  inFolder(async (folder) => {
    const common = ["--group-size", "64", "--device", "wasm", "--seq-len", "64"];
    const earlier = await sluice([
      ...["quantize", "sample", ...common, "--method", "gptq", "--num-samples", "4", "--quiet"],
      ...["--output", `${folder}/out`, "--report", `${folder}/report`],
    ]);
    assert.equal(earlier.code, 0, earlier.err);
    const { code, out, err } = await sluice([
      ...["plan", "sample", ...common, "--target-bpw", "4.5", "--sensitivity", "loss"],
      ...["--loss-report", `${folder}/report/report.json`],
    ]);
    assert.equal(code, 0, err);
    assert.match(out, /16 groups at 4\.[2-5]\d* bits per weight; .*GPTQ's loss per token/);
  }));

Deno.test("flags of a choice of bits that contradict each other, or choose nothing, are refused", () =>
  inFolder(async (folder) => {
    const other = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    const losses = `${folder}/losses.json`;
    await Deno.writeTextFile(losses, JSON.stringify({ version: 1, model: "0" }));
    try {
      for (
        const [line, says] of [
          ["--target-bpw 4 --target-size 3GB", /--target-bpw and --target-size together: give one/],
          ["--target-bpw 4 --avg-bits 4", /--target-bpw and --avg-bits together/],
          ["--target-bpw 4 --scheme W4A16", /--scheme and --target-bpw together: .*--options/],
          ["--target-bpw 4 --bits-rule sigmoid", /that rule has no target/],
          ["--options W4A16,W8A16", /--options: no bits are chosen\. Give --target-bpw/],
          ["--save-recipe r.json", /--save-recipe: no bits are chosen/],
          ["--bits-rule knapsack", /no bits are chosen/],
          ["--target-bpw 4 --options W4A16", /give two or more/],
          ["--target-bpw 4 --options W4A16,INT4", /"INT4" is none of W4A16/],
          ["--target-bpw 4 --sensitivity gradient --loss-report r", /say --sensitivity loss/],
          ["--target-bpw 4 --sensitivity loss", /--loss-report and the report\.json/],
          ["--target-bpw 4 --loss-report r.json", /say --sensitivity loss/],
          [
            `--target-bpw 4 --sensitivities ${losses} --sensitivity-samples 2`,
            /the file says what layers lose/,
          ],
          [`--target-bpw 4 --sensitivities ${losses}`, /of another model/],
          ["--target-bpw 3 --seq-len 16", /the least is 3\.\d+\. Give --target-bpw 3\.\d+ or more/],
        ] as const
      ) {
        const words = ["plan", "sample", "--group-size", "64", "--device", "wasm"];
        const { code, err } = await sluice([...words, ...line.split(" ")]);
        assert.equal(code, 1, `${line}: ${err}`);
        assert.match(err, says);
      }
      const bad = await sluice(["plan", other, "--target-bpw", "4", "--device", "wasm"]);
      assert.equal(bad.code, 1);
      assert.match(bad.err, /group/, "groups of 128 do not divide rows of 64");
    } finally {
      await Deno.remove(other, { recursive: true });
    }
  }));
