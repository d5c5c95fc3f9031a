/** `plan --save-plan`, then `quantize --plan`: what was planned is what is done, or it is said why not. */
import assert from "node:assert/strict";
import { inFolder, sluice } from "./host.ts";

const DEVICE = ["--device", "wasm", "--threads", "1"];
const FLAGS = [
  ...["--scheme", "W4A16", "--group-size", "64", "--method", "gptq", "--num-samples", "4"],
  ...["--seq-len", "64", "--evaluate", "--eval-num-samples", "2"],
];

Deno.test("a saved plan makes what its command line makes, and refuses what it has settled", () =>
  inFolder(async (folder) => {
    const plan = `${folder}/plan.json`;
    const planned = await sluice(["plan", "sample", ...FLAGS, ...DEVICE, "--save-plan", plan]);
    assert.equal(planned.code, 0, planned.err);
    const by = ["quantize", "sample", "--plan", plan, ...DEVICE];
    const made = await sluice([...by, "--output", `${folder}/made`]);
    assert.equal(made.code, 0, made.err);
    const alone = await sluice([
      ...["quantize", "sample", ...FLAGS, ...DEVICE, "--output", `${folder}/alone`],
    ]);
    assert.equal(alone.code, 0, alone.err);
    for (const file of ["model.safetensors", "config.json"]) {
      const [one, other] = await Promise.all(
        ["made", "alone"].map((name) => Deno.readFile(`${folder}/${name}/${file}`)),
      );
      assert.deepEqual(one, other, file);
    }
    const recordOf = async (name: string) =>
      JSON.parse(await Deno.readTextFile(`${folder}/${name}/sluice.json`));
    assert.deepEqual((await recordOf("made")).scores, (await recordOf("alone")).scores);
    // What the plan has settled is not said again: that would be refused.
    assert.match(
      (await recordOf("made")).command,
      /^sluice quantize sample --plan file --device wasm --threads 1 --output folder$/,
    );

    const out = ["--output", `${folder}/none`];
    const refusals: [words: string[], says: RegExp][] = [
      [[...by, ...out, "--scheme", "NF4"], /Cannot use --scheme with --plan: the plan has settled/],
      [[...by, ...out, "--seq-len", "32"], /Cannot use --seq-len with --plan/],
      [[...by, "--dry-run"], /Cannot use --dry-run with --plan/],
      [["quantize", "sample", "--plan", `${folder}/made/config.json`, ...out], /it is not what/],
    ];
    for (const [words, says] of refusals) {
      const { code, err } = await sluice(words);
      assert.equal(code, 1, `${words.join(" ")}: ${err}`);
      assert.match(err, says);
    }
    const text = await Deno.readTextFile(plan);
    await Deno.writeTextFile(plan, text.replace("--num-samples=4", "--num-samples=5"));
    const other = await sluice([...by, ...out]);
    assert.equal(other.code, 1);
    assert.match(other.err, /Cannot run the plan ".*plan.json": calibration\.sha256 is another/);
    await assert.rejects(Deno.stat(`${folder}/none`));
  }));
