/**
 * The report of a run: numbers for programs, a table, and a page that needs nothing else, whatever
 * names a model has.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openWasm } from "../src/backends/wasm/mod.ts";
import denoJson from "../deno.json" with { type: "json" };
import { METRICS } from "../src/metrics/mod.ts";
import type { Plan } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { recordOf } from "../src/report/record.ts";
import type { ReportDocument } from "../src/report/document.ts";
import { placeOf } from "../src/report/places.ts";
import { CSV_COLUMNS, makeReport, type ReportFiles } from "../src/report/files.ts";
import { axisOf } from "../src/report/page/by_depth.ts";
import { escapeHtml, html, Markup } from "../src/report/page/markup.ts";
import { reportPage } from "../src/report/page/mod.ts";
import { change, duration, fixed, moment, plain, short, size } from "../src/report/page/numbers.ts";
import type { RunReport } from "../src/report/run_report.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { showRun } from "../src/terminal/result_view.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const WINDOWS = [0, 1, 2, 3].map((w) =>
  Uint32Array.from({ length: 32 }, (_, i) => (i * 7 + w * 31 + i * i * w) % 96)
);
const REQUEST = { seqLen: 32, windows: WINDOWS.length, stateBudget: 1e9 };
const TEXT = { corpus: "sample", seed: 7, available: 99, sha256: "5ea1" };
const INPUT = { windows: WINDOWS, stateBudget: 1e9, ...TEXT };

/** A run of a small model, as a report wants it. */
async function quantize(
  options: Record<string, unknown>,
  { tensors = tinyTensors(), config, evaluate = false, ...more }: {
    tensors?: readonly TensorInfo[];
    config?: Readonly<Record<string, unknown>>;
    evaluate?: boolean;
    command?: string;
    warnings?: RunReport["warnings"];
  } = { config: TINY_CONFIG },
): Promise<{ work: Plan; report: RunReport }> {
  const into = await Deno.makeTempDir();
  const model = await makeCheckpoint(tensors, config ? { config } : {});
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(model);
  const work = plan(recipeFromOptions(options), source, {
    device: backend,
    calibration: REQUEST,
    ...(evaluate ? { evaluation: REQUEST } : {}),
  });
  await using sink = await openFolderSink(join(into, "out"));
  const report = await run(work, {
    source,
    backend,
    sink,
    metrics: true,
    distributions: true,
    residentBytes: () => 123e6,
    calibration: INPUT,
    ...(evaluate ? { evaluation: INPUT } : {}),
    ...more,
  });
  await Deno.remove(into, { recursive: true });
  await Deno.remove(model, { recursive: true });
  return { work, report };
}

const CREATED = { created: "2026-01-02T03:04:05.678Z" };

/** A run whose weights fared otherwise. */
function withTensors(
  work: Plan,
  report: RunReport,
  tensors: RunReport["tensors"],
): RunReport {
  const { scores, warnings, record: { device } } = report;
  const record = recordOf(work, {
    command: undefined,
    tensors,
    scores,
    warnings,
    device: device.description,
    card: undefined,
    calibration: INPUT,
    evaluation: undefined,
    energyTable: undefined,
  });
  return { ...report, tensors, record };
}

function parse(files: ReportFiles): ReportDocument {
  return JSON.parse(files["report.json"]) as ReportDocument;
}

const VOID = new Set(["meta", "br", "hr", "img", "input", "link"]);

/**
 * Check that every tag is closed in its order, that ids are unique and that nothing comes from
 * elsewhere.
 */
function checkPage(page: string): void {
  assert.ok(page.startsWith("<!doctype html>\n<html lang="));
  // What a browser takes as raw text; nothing in it ends it early.
  const bare = page.replace(/^<!doctype html>/, "")
    .replace(/<(style|script)>[^<]*(?:<(?!\/)[^<]*)*<\/\1>/g, "<$1></$1>");
  const open: string[] = [];
  const tags = [...bare.matchAll(/<(\/?)([a-zA-Z][\w-]*)((?:\s+[\w-]+(?:="[^"]*")?)*)\s*(\/?)>/g)];
  assert.equal(bare.split("<").length - 1, tags.length, "every < begins a tag");
  for (const [tag, closes, name, attributes, selfClosing] of tags) {
    const names = attributes!.replace(/"[^"]*"/g, "");
    assert.doesNotMatch(names, /\b(?:src|srcset|on\w+|action|xlink:href|xmlns)=/i, tag);
    if (closes) assert.equal(open.pop(), name, tag);
    else if (!selfClosing && !VOID.has(name!)) open.push(name!);
  }
  assert.deepEqual(open, []);
  const ids = [...bare.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id!);
  assert.equal(new Set(ids).size, ids.length, ids.join());
  for (const [, href] of bare.matchAll(/ href="([^"]*)"/g)) {
    assert.ok(href!.startsWith("#") && ids.includes(href!.slice(1)), href);
  }
  assert.doesNotMatch(page, /https?:|url\(|@import|<(?:link|img|iframe|object|embed)\b/i);
  assert.equal(bare.match(/<script/g)?.length, 1);
  for (const [chart] of bare.matchAll(/<svg class="chart".*?<\/svg>/gs)) {
    assert.match(chart, /^<svg [^>]*role="img"[^>]*><title>[^<]+<\/title><desc>[^<]+<\/desc>/);
  }
}

Deno.test("a calibrated and measured run is reported with every weight, its errors, losses and codes", async () => {
  const { work, report } = await quantize({ scheme: "W4A16", "group-size": 32 }, {
    config: TINY_CONFIG,
    evaluate: true,
    command: "sluice quantize",
  });
  const files = await makeReport(work, report, CREATED);
  const document = parse(files);
  assert.deepEqual(Object.keys(document), [
    ...["version", "generator", "runtime", "command", "model", "device", "recipe", "format"],
    ...["methods", "schemes", "calibrate_on", "propagate", "outlier_quantile", "source_bytes"],
    ...[
      "total_bytes",
      "stored",
      "quantized_weights",
      "bits_per_weight",
      "calibration",
      "evaluation",
      "scores",
      "along_depth",
      "certificate",
      "energy",
    ],
    ...["fallbacks", "warnings", "created", "seconds", "peak_bytes", "planned_memory", "phases"],
    ...["blocks", "timeline", "stream_error", "weights"],
  ]);
  const { blocks, positions, tokens_per_position } = document.stream_error!;
  assert.equal(blocks.length, 2);
  assert.ok(blocks.every((error) => error > 0 && error < 1), `${blocks}`);
  assert.deepEqual([positions.length, tokens_per_position], [32, 1]);
  assert.equal(document.version, 1);
  assert.equal(document.generator, `sluice ${denoJson.version}`);
  assert.equal(document.command, "sluice quantize");
  assert.deepEqual(document.methods, [{ name: "awq+gptq", weights: 14 }]);
  assert.deepEqual(document.calibration, {
    corpus: "sample",
    windows: 4,
    available: 99,
    seq_len: 32,
    tokens: 128,
    seed: 7,
    sha256: "5ea1",
  });
  assert.deepEqual(document.scores, report.scores);
  const { perplexity, original_perplexity } = report.scores.perplexity!;
  assert.equal(document.energy!.quality_kept, original_perplexity! / perplexity!);
  assert.equal(document.peak_bytes, 123e6);
  assert.equal(document.planned_memory.peak, work.memory.peak);
  const keys = (value: unknown): string[] =>
    typeof value === "object" && value !== null
      ? Object.entries(value).flatMap(([key, value]) => [key, ...keys(value)])
      : [];
  for (const key of keys(document)) assert.match(key, /^([a-z0-9_]+|(?:model|embedding|head)\S*)$/);
  assert.equal(document.weights.length, 14);
  for (const weight of document.weights) {
    const { metrics, distribution, fallback, name, ...rest } = weight;
    assert.deepEqual(Object.keys(metrics), METRICS.map(({ name }) => name));
    assert.equal(fallback, null);
    for (const [key, value] of Object.entries(rest)) {
      const mayLack = ["strength", "input_scale", "block_error_before", "block_error"];
      const may = mayLack.includes(key) && value === null;
      assert.ok(may || typeof value === "string" || Number.isFinite(value), `${name} ${key}`);
    }
    assert.equal(distribution!.codes!.counts.length, 16);
    assert.ok(weight.loss! < weight.loss_bound! && weight.output_error! < 0.1);
    assert.equal(name, `model.layers.${weight.depth}.${weight.kind}.weight`);
  }

  const lines = files["report.csv"].trimEnd().split("\n");
  assert.equal(lines.length, 15);
  assert.equal(lines[0], CSV_COLUMNS.join(","));
  assert.ok(lines[1]!.startsWith("model.layers.0.self_attn.q_proj.weight,model.layers.0,0,"));

  const page = files["report.html"];
  checkPage(page);
  for (const { name } of document.weights) assert.ok(page.includes(`>${name}</th>`), name);
  for (const id of ["summary", "errors", "loss", "time", "weights", "distributions"]) {
    assert.ok(page.includes(`<section id="${id}"`), id);
  }
  assert.match(page, /Perplexity/);
  assert.match(page, /Energy of a token, estimated/);
  assert.match(page, /4 of 99 windows of 32 tokens, 128 tokens; drawn with seed 7/);
  assert.match(page, /2026-01-02 03:04 UTC/);
  // The policy lets the page's own script run, and no other.
  const script = /<script>(.*)<\/script>/s.exec(page)![1]!;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script));
  assert.ok(page.includes(`script-src &#39;sha256-${new Uint8Array(digest).toBase64()}&#39;`));
});

for (const scheme of ["W8A8", "NF4", "FP8", "LLM_INT8", "F32"]) {
  Deno.test(`a run without data to ${scheme} is reported without what it does not have`, async () => {
    const { work, report } = await quantize({ scheme });
    const files = await makeReport(work, report);
    const document = parse(files);
    assert.deepEqual([document.calibration, document.evaluation, document.scores], [
      null,
      null,
      {},
    ]);
    assert.ok(document.weights.length >= 14);
    for (const { output_error, loss, damping, strength, tokens, method } of document.weights) {
      assert.deepEqual([output_error, loss, damping, strength, tokens], [
        null,
        null,
        null,
        null,
        null,
      ]);
      assert.equal(method, "rtn");
    }
    const codes = { W8A8: 256, NF4: 16, LLM_INT8: 256 }[scheme];
    assert.equal(document.weights[0]!.distribution!.codes?.counts.length, codes);
    // A cast to a wider dtype loses nothing, which JSON has no number for.
    if (scheme === "F32") assert.equal(String(document.weights[0]!.metrics.sqnr_db), "Infinity");
    const page = files["report.html"];
    assert.equal(/No weight differs/.test(page), scheme === "F32");
    checkPage(page);
    assert.match(page, /was not measured: an evaluation does that/);
    const [shown] = page.split("<script>");
    assert.doesNotMatch(shown!, /id="loss"|id="settings"|Calibrated on|undefined|NaN/);
    for (const { name } of document.weights) assert.ok(page.includes(name));
  });
}

Deno.test("names of tensors cannot become markup, formulas or turned text", async () => {
  const tensor = (name: string): TensorInfo => ({ name, dtype: "f32", shape: [32, 64] });
  const tensors = [
    tensor(`enc.0.<script>alert(1)</script>"'&.weight`),
    tensor("enc.1.<img src=x onerror=alert(1)>\u202e.weight"),
    tensor("enc.2.--></svg></title><b>${1}.weight"),
    tensor("=HYPERLINK(1).weight"),
    tensor("\u2066plain.weight"),
  ];
  const { work, report } = await quantize({ scheme: "W8A16" }, {
    tensors,
    command: "<i>command</i>",
    warnings: [{ code: "x", message: "</section><script>" }],
  });
  const files = await makeReport(work, report);
  const page = files["report.html"];
  checkPage(page);
  assert.doesNotMatch(page, /<script>alert|<img|<b>|<i>/);
  // deno-lint-ignore no-control-regex -- control characters are what is looked for
  const acts = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/;
  assert.doesNotMatch(page, acts);
  assert.doesNotMatch(files["report.csv"].replaceAll("\r", ""), acts);
  assert.match(files["report.csv"], /^'=HYPERLINK\(1\)\.weight,/m);
  const names = parse(files).weights.map(({ name }) => name);
  assert.deepEqual(names.toSorted(), tensors.map(({ name }) => name).toSorted());
  for (const name of names) assert.ok(page.includes(`>${escapeHtml(name)}</th>`), name);
});

Deno.test("weights that were rounded to nearest instead stand out, and losses that are not defined are said", async () => {
  const { work, report } = await quantize({ scheme: "W4A16", "group-size": 32 });
  const fallback = "the Hessian cannot be factored";
  const tensors = report.tensors.map((tensor, i) => {
    if (i !== 3) return tensor;
    const { method, tokens } = tensor.calibration!;
    return { ...tensor, calibration: { method, tokens, fallback } };
  });
  assert.match(
    showRun({ output: "out", plan: work, report: { ...report, tensors } }),
    /^calibrated +awq\+gptq on 128 tokens; 1 weight rounded to nearest instead$/m,
  );
  const files = await makeReport(work, withTensors(work, report, tensors), CREATED);
  assert.deepEqual(parse(files).fallbacks, [tensors[3]!.name]);
  assert.deepEqual(parse(files).methods, [
    { name: "awq+gptq", weights: 13 },
    { name: "awq+rtn", weights: 1 },
  ]);
  const page = files["report.html"];
  checkPage(page);
  assert.match(page, /Rounded to nearest instead: 1 of 14 weights\./);
  assert.match(page, /<tr class="bad"><th scope="row">model\.layers\.0\.self_attn\.o_proj\.weight/);
  assert.ok(page.includes('class="cross"') && page.includes("var(--bad)"));

  const undefinedLoss = report.tensors.map((tensor) => {
    const { expectedLoss: _, lossBound: __, ...facts } = tensor.calibration!;
    return { ...tensor, calibration: facts };
  });
  const other = await makeReport(work, { ...report, tensors: undefinedLoss }, CREATED);
  checkPage(other["report.html"]);
  assert.match(other["report.html"], /grids other than int they are not defined/);
});

Deno.test("the page of a model of 32 layers stays below a megabyte and a half", async () => {
  const { work, report } = await quantize({ scheme: "W4A16", "group-size": 32 });
  const document = parse(await makeReport(work, report, CREATED));
  const weights = Array.from(
    { length: 32 },
    (_, depth) =>
      document.weights.slice(0, 7).map((weight) => ({
        ...weight,
        name: weight.name.replace(".0.", `.${depth}.`),
        block: `model.layers.${depth}`,
        depth,
        output_error: weight.output_error! * (1 + depth),
      })),
  ).flat();
  const blocks = Array.from({ length: 32 }, (_, depth) => ({
    ...document.blocks[1]!,
    name: `model.layers.${depth}`,
  }));
  const page = await reportPage({ ...document, weights, blocks });
  checkPage(page);
  assert.ok(page.length < 1.5e6, String(page.length));
});

Deno.test("a weight's place is the first number of its name, and what follows it", () => {
  const places: [string, number | null, string, string][] = [
    ["model.layers.3.mlp.up_proj.weight", 3, "mlp.up_proj", "model.layers"],
    ["model.layers.12.experts.7.w1.weight", 12, "experts.*.w1", "model.layers"],
    ["lm_head.weight", null, "lm_head", ""],
    ["layer1.0.conv1.weight", 0, "conv1", "layer1"],
    ["fc.1.weight", null, "fc.1", ""],
    ["weight", null, "weight", ""],
    ["3.weight", null, "3", ""],
    ["h.0.attn.c_attn", 0, "attn.c_attn", "h"],
  ];
  for (const [name, depth, rest, stem] of places) {
    assert.deepEqual(placeOf(name), { depth, rest, stem }, name);
  }
});

Deno.test("an axis holds its values and has marks", () => {
  assert.deepEqual(axisOf([0.0013, 0.009], "log"), {
    domain: [0.001, 0.01],
    values: [0.001, 0.002, 0.005, 0.01],
  });
  assert.deepEqual(axisOf([0.012, 4], "log"), { domain: [0.01, 5], values: [0.01, 0.1, 1] });
  assert.deepEqual(axisOf([0.006, 0.009], "log").values, [0.005, 0.006, 0.007, 0.008, 0.009, 0.01]);
  assert.deepEqual(axisOf([0.01], "log").domain, [0.01, 0.02]);
  assert.deepEqual(axisOf([100], "linear"), { domain: [0, 100], values: [0, 20, 40, 60, 80, 100] });
  assert.deepEqual(axisOf([286], "linear").values, [0, 100, 200, 300]);
  assert.deepEqual(axisOf([0.05, 0.1], "linear").values, [0, 0.02, 0.04, 0.06, 0.08, 0.1]);
  for (const values of [[], [0], [NaN]]) {
    assert.deepEqual(axisOf(values, "linear").domain, [0.1, 1]);
  }
});

Deno.test("texts in templates are escaped, markup is not, and nothing stands for nothing", () => {
  const made = html`
    <p title="${`"<'`}">${"a & b"}${3}${false}${undefined}${[html`<b>${"<"}</b>`, "x"]}</p>
  `;
  assert.equal(
    made.text.trim(),
    `<p title="&#34;&#60;&#39;">a &#38; b3<b>&#60;</b>x</p>`,
  );
  assert.equal(html`${new Markup("<hr>")}`.text, "<hr>");
});

Deno.test("numbers of the page are short and plain", () => {
  const shown = [0, 0.0123456, 1.5e-5, 12.345, 123.4, 99999, 1.5e7, Infinity, -Infinity, null];
  assert.deepEqual(shown.map((x) => short(x)), [
    ...["0.00", "0.0123", "1.50e-5", "12.3", "123", "99999", "1.50e+7", "∞", "−∞", "–"],
  ]);
  assert.deepEqual([plain(0.01), plain(0.012345), fixed(1.23456, 2), fixed(null, 2)], [
    ...["0.01", "0.0123", "1.23", "–"],
  ]);
  assert.deepEqual([change(10, 10.5), change(10, 9), change(1, Infinity)], [
    "+5.00 %",
    "−10.00 %",
    "∞",
  ]);
  assert.deepEqual([duration(0.123), duration(4.2), duration(75), duration(7300)], [
    ...["0.12 s", "4.2 s", "1 min 15 s", "2 h 01 min"],
  ]);
  assert.deepEqual([size(0), size(1.5e6)], ["–", "1.5 MB"]);
  assert.equal(moment("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04 UTC");
  assert.equal(moment("yesterday"), "yesterday");
});
