/**
 * `quantize --report`: what is written where, which folders are refused before the work begins, and
 * what a failed run leaves.
 */
import assert from "node:assert/strict";
import denoJson from "../../deno.json" with { type: "json" };
import type { ReportDocument } from "../../src/report/document.ts";
import { REPORT_FILES } from "../../src/report/files.ts";
import { Interrupted } from "../../src/terminal/faults.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, names, sluice } from "./host.ts";

const ON_CPU = ["--device", "wasm"] as const;

/** Run `test` with a Llama of two blocks, so that runs are short. */
function withTiny(test: (model: string, folder: string) => Promise<void>): Promise<void> {
  return inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    await test(`${folder}/model`, folder);
  });
}

function document(folder: string): ReportDocument {
  return JSON.parse(Deno.readTextFileSync(`${folder}/report.json`)) as ReportDocument;
}

const SORTED = [...REPORT_FILES].sort();

Deno.test("quantize sample --report calibrates, measures, and tells it all in three files beside the checkpoint", () =>
  inFolder(async (folder) => {
    const [output, report] = [`${folder}/out`, `${folder}/deep/report`];
    const { code, out, err } = await sluice([
      ...["quantize", "sample", "--group-size", "64", "--output", output, "--report", report],
      ...["--num-samples", "2", "--seq-len", "64", "--evaluate", ...ON_CPU],
    ]);
    assert.equal(code, 0, err);
    assert.match(out, /^calibrated +awq\+gptq on 128 tokens$/m);
    assert.ok(out.split("\n").some((line) => /^report +\S+\/deep\/report$/.test(line)), out);
    assert.deepEqual(names(report), SORTED);
    assert.ok(!names(output).some((name) => name.startsWith("report")));
    const made = document(report);
    assert.equal(made.generator, `sluice ${denoJson.version}`);
    assert.equal(made.model.name, "sample");
    assert.equal(made.weights.length, 28);
    assert.equal(made.calibration!.corpus, "sample");
    assert.equal(made.evaluation!.tokens, 128);
    assert.match(
      made.command!,
      /^sluice quantize sample --group-size 64 .*--evaluate --device wasm --output folder$/,
    );
    assert.ok(!JSON.stringify(made).includes(folder));
    // What was said before the run began, and in it.
    assert.deepEqual(made.warnings.map(({ code }) => code), ["sample-calibration", "few-tokens"]);
    assert.ok(made.peak_bytes > 1e7);
    const { walk, evaluate } = Object.fromEntries(made.phases.map((use) => [use.phase, use]));
    assert.ok(walk!.seconds > 0 && evaluate!.seconds > 0);
    assert.ok(walk!.peak_bytes > 1e7 && walk!.planned_bytes > 1e8);
  }));

Deno.test("quantize --report without data, with a table of its own, in --json and --quiet", () =>
  withTiny(async (model, folder) => {
    const report = `${folder}/report`;
    const words = ["quantize", model, "--scheme", "W8A16", "--report", report, ...ON_CPU];
    const json = await sluice([...words, "--output", `${folder}/a`, "--json"]);
    assert.equal(json.code, 0, json.err);
    const lines = json.out.trimEnd().split("\n").map((line) => JSON.parse(line));
    assert.equal(lines.at(-1).report, report);
    // Events stay small: what only the report needs is not in them.
    const events = lines.filter(({ type }) => type === "quantized");
    assert.equal(events.length, 14);
    for (const event of events) assert.ok(JSON.stringify(event).length < 600);
    assert.equal(document(report).weights.length, 14);
    // An existing report is replaced.
    const quiet = await sluice([...words, "--output", `${folder}/b`, "--quiet"]);
    assert.deepEqual(quiet, { code: 0, out: "", err: "" });
    assert.deepEqual(names(report), SORTED);
    // What changes nothing in the checkpoint is not said.
    assert.equal(
      document(report).command,
      "sluice quantize ./model --scheme W8A16 --device wasm --output folder",
    );
  }));

Deno.test("--report refuses folders that hold something else, files, and the checkpoint's own, before the work begins", () =>
  withTiny(async (model, folder) => {
    const output = `${folder}/out`;
    await Deno.mkdir(`${folder}/full`);
    await Deno.writeTextFile(`${folder}/full/notes.txt`, "mine");
    await Deno.mkdir(`${folder}/other`);
    await Deno.writeTextFile(`${folder}/other/report.json`, `{"generator": "something else"}`);
    await Deno.mkdir(`${folder}/broken`);
    await Deno.writeTextFile(`${folder}/broken/report.json`, "{");
    await Deno.mkdir(`${folder}/page`);
    await Deno.writeTextFile(`${folder}/page/report.html`, "mine");
    await Deno.writeTextFile(`${folder}/file`, "mine");
    const before = names(folder);
    for (
      const [report, says] of [
        [`${folder}/full`, /holds something other than a report/],
        [`${folder}/other`, /holds something other than a report/],
        [`${folder}/broken`, /holds something other than a report/],
        [`${folder}/page`, /holds something other than a report/],
        [`${folder}/file`, /it is not a folder/],
        [output, /the checkpoint goes there/],
        [`${output}/report`, /the checkpoint goes there/],
        [folder, /the checkpoint goes into it/],
        [model, /holds something other than a report/],
      ] as const
    ) {
      const { code, out, err } = await sluice(
        ["quantize", model, "--scheme", "W8A16", "--output", output, "--report", report, ...ON_CPU],
      );
      assert.equal(code, 1, report);
      assert.equal(out, "");
      assert.match(
        err,
        /^sluice: Cannot write the report to ".*\. Give another folder\.\n$/,
        report,
      );
      assert.match(err, says);
      assert.deepEqual(names(folder), before);
    }
    assert.equal(Deno.readTextFileSync(`${folder}/page/report.html`), "mine");
  }));

Deno.test("a run that is refused or stopped leaves no folder for its report, and an old report as it was", () =>
  withTiny(async (model, folder) => {
    const report = `${folder}/new/report`;
    const words = ["quantize", model, "--output", `${folder}/out`, ...ON_CPU];
    // No group of 128 fits into rows of 64.
    const refused = await sluice([...words, "--method", "rtn", "--report", report]);
    assert.equal(refused.code, 1);
    assert.deepEqual(names(folder), ["model"]);
    const stop = new AbortController();
    const err = keeper({
      onWrite(text) {
        if (/40 %/.test(text)) stop.abort(new Interrupted());
      },
    });
    const fp8 = [...words, "--scheme", "FP8", "--report", report];
    const stopped = await sluice(fp8, { signal: stop.signal, err });
    assert.equal(stopped.code, 75);
    assert.deepEqual(names(folder), ["model", "out.sluice-partial"]);
    const dry = await sluice([...fp8, "--dry-run"]);
    assert.equal(dry.code, 0);
    assert.deepEqual(names(folder), ["model", "out.sluice-partial"]);
    const done = await sluice(fp8);
    assert.equal(done.code, 0, done.err);
    const old = Deno.readTextFileSync(`${report}/report.json`);
    const again = await sluice(fp8);
    assert.equal(again.code, 1);
    assert.match(again.err, /the folder exists and is not empty/);
    assert.equal(Deno.readTextFileSync(`${report}/report.json`), old);
  }));
