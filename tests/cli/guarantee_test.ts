/** Bounds on the command line: searched for, certified, measured again, and not kept. */
import assert from "node:assert/strict";
import type { RunRecord } from "../../src/report/record.ts";
import { Interrupted } from "../../src/terminal/faults.ts";
import { inFolder, names, sluice } from "./host.ts";

const ON_CPU = ["--device", "wasm", "--group-size", "64"];
/** 22 windows of which 16 judge; sensitivities of one. */
const TEXT = ["--seq-len", "32", "--num-samples", "2", "--eval-num-samples", "22"];
const SEARCH = [...ON_CPU, ...TEXT, "--sensitivity-samples", "1", "--methods", "rtn"];

function recordOf(folder: string): RunRecord {
  return JSON.parse(Deno.readTextFileSync(`${folder}/sluice.json`));
}

Deno.test("a bound is kept with a certificate in record, report and card, and verify measures it again", () =>
  inFolder(async (folder) => {
    const out = `${folder}/out`;
    const made = await sluice([
      ...["quantize", "sample", ...SEARCH, "--max-kl", "0.05", "--max-perplexity-increase", "20%"],
      ...["--max-tries", "3", "--output", out, "--report", `${folder}/report`],
      ...["--save-recipe", `${folder}/recipe.json`, "--save-sensitivities", `${folder}/s.json`],
    ]);
    assert.equal(made.code, 0, made.err);
    assert.match(
      made.err,
      /searching for the fewest bytes with KL divergence from the original below 0\.05 nats per token and increase of perplexity below 20 %\n/,
    );
    assert.match(made.err, /at most 3 tries \(rtn\), each a whole quantization .* not kept/);
    assert.match(made.err, /6 windows steer, 16 judge: one-sided 95 % confidence/);
    assert.match(made.err, /try 1 of at most 3, rtn at \d\.\d+ bits per weight: KL/);
    assert.match(
      made.out,
      /^guaranteed +KL divergence from the original 0\.0\d+, at most 0\.0\d+/m,
    );

    const record = recordOf(out);
    const { certificate, evaluation, scores } = record;
    assert.ok(certificate?.holds);
    const { limits, text, ...rest } = certificate;
    assert.deepEqual(rest, { holds: true, confidence: 0.95, tries: 3, steering_windows: 6 });
    assert.deepEqual(text, evaluation, "what judges is what is measured");
    assert.deepEqual([text.windows, text.seq_len, text.seed], [16, 32, 0]);
    assert.deepEqual(limits.map(({ quantity, bound, holds }) => [quantity, bound, holds]), [
      ["kl_divergence", 0.05, true],
      ["perplexity_increase", 0.2, true],
    ]);
    const [kl, increase] = limits;
    assert.ok(Math.abs(kl!.measured - scores.divergence!.mean!) < 1e-12);
    const { perplexity, original_perplexity } = scores.perplexity!;
    assert.ok(Math.abs(increase!.measured - (perplexity! / original_perplexity! - 1)) < 1e-9);
    assert.ok(kl!.measured < kl!.limit && kl!.limit < 0.05);
    assert.match(record.command!, /--max-kl 0\.05 --max-perplexity-increase "?'?20%/);
    const report = JSON.parse(await Deno.readTextFile(`${folder}/report/report.json`));
    assert.deepEqual(report.certificate, certificate);
    const page = await Deno.readTextFile(`${folder}/report/report.html`);
    assert.match(page, /Guaranteed: KL divergence from the original/);

    const verify = ["verify", out, "--certificate", "--device", "wasm"];
    const again = await sluice([...verify, "--source", "sample"]);
    assert.equal(again.code, 0, again.err);
    assert.match(again.out, /^measured again +KL divergence from the original 0\.0/m);
    const json = await sluice([...verify, "--source", "sample", "--json"]);
    const found = JSON.parse(json.out.trimEnd().split("\n").at(-1)!).certificate;
    assert.equal(found.text.sha256, text.sha256);
    for (const [i, { limit }] of limits.entries()) {
      assert.ok(Math.abs(found.limits[i].limit - limit) < 1e-6 * Math.abs(limit), `${limit}`);
    }

    const missing = await sluice(verify);
    assert.equal(missing.code, 1);
    assert.match(missing.err, /say what the checkpoint was made of, --source/);
    await Deno.writeTextFile(`${folder}/other.txt`, "One thing after another. ".repeat(500));
    const other = await sluice([
      ...verify,
      "--source",
      "sample",
      "--corpus",
      `${folder}/other.txt`,
    ]);
    assert.equal(other.code, 1);
    assert.match(other.err, /it is about other windows, of "sample" .* Give the text .*--corpus/);
    const broken = { ...certificate, limits: [{ ...kl!, bound: kl!.measured }] };
    await Deno.writeTextFile(
      `${out}/sluice.json`,
      JSON.stringify({ ...record, certificate: broken }),
    );
    const refused = await sluice([...verify, "--source", "sample"]);
    assert.equal(refused.code, 2);
    assert.match(refused.err, /Cannot accept the certificate of .*: KL .* not below 0\.0/);
    await Deno.writeTextFile(
      `${out}/sluice.json`,
      JSON.stringify({ ...record, certificate: null }),
    );
    const none = await sluice([...verify, "--source", "sample"]);
    assert.equal(none.code, 1);
    assert.match(none.err, /it has none\. They are made by quantize with --max-kl/);
    const useless = await sluice(["verify", out, "--corpus", "sample", "--device", "wasm"]);
    assert.match(useless.err, /Cannot use --corpus without --certificate/);

    const plan = ["plan", "sample", ...SEARCH, "--sensitivities", `${folder}/s.json`];
    const planned = await sluice([
      ...plan.filter((word, i) => ![word, plan[i - 1]].includes("--sensitivity-samples")),
      ...["--max-kl", "0.05"],
    ]);
    assert.equal(planned.code, 0, planned.err);
    assert.match(planned.out, /^searching for .*\nat most 6 tries \(rtn\).*\n6 windows steer/);
    assert.match(planned.out, /what follows is the first try\n\nBLOCK/);
  }));

Deno.test("a bound that is not kept ends with the best that was found, and exit code 1", () =>
  inFolder(async (folder) => {
    const out = `${folder}/out`;
    const { code, err } = await sluice([
      ...["quantize", "sample", ...SEARCH, "--max-kl", "1e-6", "--options", "W3A16,W4A16"],
      ...["--max-tries", "3", "--output", out],
    ]);
    assert.equal(code, 1);
    assert.match(
      err,
      /Cannot keep the bound: of at most 3 tries the best, at 4\.2\d+ bits per weight, has KL .*: not below 0\.000001 \(one-sided .*Give a larger bound, --options of more bits, or more windows\./,
    );
    assert.match(err, /The checkpoint stays in .*out$/m);
    const { certificate, schemes } = recordOf(out);
    assert.equal(certificate!.holds, false);
    assert.deepEqual(schemes.map(({ name }) => name), ["int4, groups of 64, symmetric"]);
    const verify = ["verify", out, "--certificate", "--source", "sample", "--device", "wasm"];
    assert.equal((await sluice(verify)).code, 2);
  }));

/** Run a command line, and stop it where it has said something so many times. */
async function stopped(words: readonly string[], says: RegExp, times: number): Promise<string> {
  const stop = new AbortController();
  let said = "";
  const { code } = await sluice(words, {
    signal: stop.signal,
    err: {
      isTerminal: false,
      columns: 100,
      write(text) {
        said += text;
        if (said.match(says)?.length === times) stop.abort(new Interrupted());
      },
    },
  });
  assert.equal(code, 75, said);
  return said;
}

Deno.test("a search that is interrupted goes on by the same command, and measures nothing twice", () =>
  inFolder(async (folder) => {
    const search = [
      ...["quantize", "sample", ...SEARCH, "--max-kl", "0.05", "--max-tries", "4"],
      ...["--options", "W3A16,W4A16,W8A16"],
    ];
    const made = (out: string) => [...search, "--output", `${folder}/${out}`];
    const whole = await sluice(made("whole"));
    assert.equal(whole.code, 0, whole.err);
    const tries = whole.err.match(/try \d of/g)!.length;
    assert.ok(tries > 2);
    const early = await stopped(made("out"), /measuring sensitivities/g, 1);
    assert.match(early, /Stopped\. Nothing was left behind/);
    for (const times of [1, 2]) {
      const said = await stopped(made("out"), /try \d of/g, times);
      assert.match(
        said,
        /same command goes on after \d+ losses and \d (try|tries) that were measured\./,
      );
      assert.deepEqual(names(folder), ["out.sluice-search", "whole"]);
    }
    const status = await sluice(["status", `${folder}/out`]);
    assert.match(
      status.out,
      /^run +stopped; the same command goes on\nsearch +bits are searched for/,
    );
    const last = await sluice(made("out"));
    assert.equal(last.code, 0, last.err);
    assert.match(
      last.err,
      /what .*out\.sluice-search has of an earlier search is not measured again/,
    );
    assert.equal(last.err.match(/try \d of/g)!.length, tries);
    assert.deepEqual(names(folder), ["out", "whole"]);
    const [one, other] = ["whole", "out"].map((out) => recordOf(`${folder}/${out}`));
    assert.deepEqual(other!.scores, one!.scores);
    assert.deepEqual(other!.certificate, one!.certificate);
    assert.deepEqual(
      await Deno.readFile(`${folder}/out/model.safetensors`),
      await Deno.readFile(`${folder}/whole/model.safetensors`),
    );

    await stopped(made("anew"), /try \d of/g, 1);
    const anew = await sluice([...made("anew"), "--restart"]);
    assert.equal(anew.code, 0, anew.err);
    assert.doesNotMatch(anew.err, /an earlier search/);
    assert.deepEqual(names(folder), ["anew", "out", "whole"]);
    await stopped([...made("none"), "--no-resume"], /try \d of/g, 1);
    assert.deepEqual(names(folder), ["anew", "out", "whole"]);
    await stopped(made("none"), /try \d of/g, 1);
    assert.equal((await sluice([...made("none"), "--no-resume"])).code, 0);
    assert.deepEqual(names(folder), ["anew", "none", "out", "whole"]);
  }));

Deno.test("bounds that make no sense, and texts that cannot judge, are refused while planning", () =>
  inFolder(async (folder) => {
    const known = `${folder}/known.txt`;
    const file = new URL("../../sample/corpus/calibration.txt", import.meta.url);
    await Deno.writeTextFile(known, (await Deno.readTextFile(file)).slice(0, 20_000));
    for (
      const [line, says] of [
        ["--max-kl 0", /--max-kl 0: a bound is above 0/],
        ["--max-kl -1", /a bound is above 0/],
        ["--max-kl small", /must be a number/],
        ["--max-perplexity-increase 0.01", /it must be percent .* such as 1%/],
        ["--max-perplexity-increase 0%", /a bound is above 0/],
        ["--max-tries 3", /--max-tries: nothing is searched for\. Give --max-kl/],
        ["--methods rtn", /--methods: nothing is searched for/],
        ["--max-kl 0.1 --methods rtn --method rtn", /--methods and --method together/],
        ["--max-kl 0.1 --methods rtn,rtn", /give each once/],
        ["--max-kl 0.1 --methods best", /"best"/],
        ["--max-kl 0.1 --target-bpw 4", /--target-bpw and --max-kl together: give one target/],
        ["--max-kl 0.1 --scheme W4A16", /--scheme and --max-kl together: .*--options/],
        ["--max-kl 0.1 --bits-rule sigmoid", /that rule has no target/],
        ["--max-kl 0.1 --eval-num-samples 20", /15 are left to judge, and 16 are the least/],
        [`--max-kl 0.1 --corpus ${known}`, /windows hold text that was calibrated on/],
        ["--eval-seed 3", /--eval-seed without --evaluate: nothing is measured/],
      ] as const
    ) {
      const words = ["plan", "sample", ...ON_CPU, "--seq-len", "64", ...line.split(" ")];
      const { code, err } = await sluice(words);
      assert.equal(code, 1, `${line}: ${err}`);
      assert.match(err, says);
    }
  }));
