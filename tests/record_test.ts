/**
 * The record of a run: what it says, that it says the same again, what is refused of others', and
 * what of it must stay at home.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { CheckpointError } from "../src/errors.ts";
import { METHODS } from "../src/methods/mod.ts";
import { withThreshold } from "../src/calibration/outliers.ts";
import { plan } from "../src/plan.ts";
import { recipeDocument, recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { RECORD_FILE } from "../src/io/names.ts";
import { recordSidecar, type RunRecord } from "../src/report/record.ts";
import { parseRecord, readRecord } from "../src/report/record_file.ts";
import { run } from "../src/run.ts";
import { schemeNames } from "../src/schemes/options.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { verify } from "../src/verify.ts";
import { prepareCalibration } from "../src/windows.ts";
import { open } from "../src/open.ts";
import { VERSION } from "../src/version.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** Windows of tokens, and what is known of the text they are of. */
const TEXT = { corpus: "mine.txt", seed: 3, available: 12, sha256: "5ea1" };
const WINDOWS = [0, 1, 2, 3].map((w) =>
  Uint32Array.from({ length: 32 }, (_, i) => (i * 7 + w * 31 + i * i * w) % 96)
);

/** Quantize the tiny model into `folder/name` and give the record that lies there. */
async function quantize(
  folder: string,
  name: string,
  { options = { scheme: "W4A16", "group-size": 32 }, model = `${folder}/model`, ...more }: {
    options?: Record<string, unknown>;
    model?: string;
    command?: string;
    warnings?: { code: string; message: string }[];
  } = {},
): Promise<RunRecord> {
  await using backend = await openWasm({ threads: 1 });
  await using source = await openCheckpoint(model);
  const request = { seqLen: 32, windows: 4, stateBudget: 1e9 };
  const recipe = withThreshold(recipeFromOptions(options), 4.5);
  const work = plan(recipe, source, { device: backend, calibration: request });
  await using sink = await openFolderSink(`${folder}/${name}`);
  const calibration = { windows: WINDOWS, stateBudget: 1e9, ...TEXT };
  const { record } = await run(work, { source, backend, sink, calibration, ...more });
  const text = readFileSync(`${folder}/${name}/${RECORD_FILE}`, "utf8");
  assert.deepEqual(parseRecord(text), record);
  return record;
}

/** Run `test` with a folder that holds a tiny model with a card. */
async function withModel(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "sluice_record_" }));
  try {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    await Deno.writeTextFile(
      `${folder}/model/README.md`,
      "---\nlicense: [mit, other]\nlanguage: en\ntags: [conversational]\nextra_gated_x: {I: a}\n---\n",
    );
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a run leaves its record beside the weights: model, recipe, methods, text, device, versions", () =>
  withModel(async (folder) => {
    const warning = { code: "odd", message: `something in ${folder}` };
    const more = { command: "sluice quantize …", warnings: [warning, warning] };
    const record = await quantize(folder, "out", more);
    const { generator, runtime, command, model, device, recipe, ...rest } = record;
    assert.equal(generator, `sluice ${VERSION}`);
    assert.equal(runtime, `deno ${Deno.version.deno}`);
    assert.equal(command, "sluice quantize …");
    assert.deepEqual(model, {
      name: "model",
      id: null,
      type: "llama",
      blocks: 2,
      card: {
        license: ["mit", "other"],
        license_name: null,
        license_link: null,
        language: "en",
        pipeline_tag: null,
        conversational: true,
        gate: { extra_gated_x: { I: "a" } },
      },
    });
    assert.equal(device.name, "wasm");
    assert.deepEqual(
      parseRecipe(JSON.stringify(recipe), "r"),
      recipeFromOptions({ scheme: "W4A16", "group-size": 32 }),
    );
    const files = [...Deno.readDirSync(`${folder}/out`)].filter(({ name }) => name !== RECORD_FILE);
    const bytes = files.reduce((n, { name }) => n + Deno.statSync(`${folder}/out/${name}`).size, 0);
    const { bits_per_weight, stored, scores, energy, ...others } = rest;
    assert.ok(bits_per_weight > 4 && bits_per_weight < 5);
    assert.ok(stored.bytes < bytes && stored.tensors > 14);
    assert.deepEqual(scores, {});
    assert.ok(energy!.quantized.memory_pj < energy!.original.memory_pj);
    assert.equal(energy!.quality_kept, null);
    assert.deepEqual(others, {
      version: 1,
      format: "compressed-tensors",
      methods: [{ name: "awq+gptq", weights: 14 }],
      schemes: [{ name: "int4, groups of 32, symmetric", weights: 14 }],
      calibrate_on: "quantized",
      propagate: true,
      outlier_quantile: null,
      source_bytes: tinyTensors().reduce(
        (n, { shape }) => n + 2 * shape.reduce((a, b) => a * b),
        0,
      ),
      total_bytes: bytes,
      quantized_weights: 73728,
      calibration: { ...TEXT, windows: 4, seq_len: 32, tokens: 128 },
      evaluation: null,
      along_depth: null,
      certificate: null,
      fallbacks: [],
      warnings: { odd: 2 },
    });
    assert.ok(!JSON.stringify(record).includes(folder), "a path of this machine is told");
  }));

Deno.test("the same run gives the same bytes, the record's too, and another text another record", () =>
  withModel(async (folder) => {
    await quantize(folder, "a");
    await quantize(folder, "b");
    for (const { name } of Deno.readDirSync(`${folder}/a`)) {
      assert.ok(
        readFileSync(`${folder}/a/${name}`).equals(readFileSync(`${folder}/b/${name}`)),
        name,
      );
    }
  }));

Deno.test("a record is not carried along: what is made of an output tells of its own making", () =>
  withModel(async (folder) => {
    const cast = await quantize(folder, "cast", { options: { scheme: "F32" } });
    assert.equal(cast.format, "plain");
    assert.deepEqual(cast.schemes, [{ name: "f32", weights: 21 }]);
    const record = await quantize(folder, "out", { model: `${folder}/cast` });
    assert.equal(record.model.name, "cast");
    assert.equal(record.format, "compressed-tensors");
  }));

Deno.test("verify() reads the record, and refuses one of another checkpoint", () =>
  withModel(async (folder) => {
    const record = await quantize(folder, "out");
    await quantize(folder, "other", { options: { scheme: "W8A16" } });
    await using backend = await openWasm({ threads: 1 });
    assert.deepEqual((await verify(`${folder}/out`, { backend })).record, record);
    await Deno.copyFile(`${folder}/other/${RECORD_FILE}`, `${folder}/out/${RECORD_FILE}`);
    await assert.rejects(
      verify(`${folder}/out`, { backend }),
      (error) =>
        error instanceof CheckpointError && error.file === RECORD_FILE &&
        /belongs to another checkpoint: take it away/.test(error.message),
    );
    await Deno.remove(`${folder}/out/${RECORD_FILE}`);
    assert.equal((await verify(`${folder}/out`, { backend })).record, undefined);
  }));

Deno.test("a threshold that was found by a text is told with the text and the share", () =>
  withModel(async (folder) => {
    const options = { scheme: "LLM_INT8", "outlier-quantile": 0.99 };
    const { recipe, calibration, ...record } = await quantize(folder, "out", { options });
    assert.deepEqual([recipe.threshold, recipe.outlier_quantile], [4.5, undefined]);
    assert.deepEqual([record.outlier_quantile, record.calibrate_on], [0.99, null]);
    assert.deepEqual(calibration, { ...TEXT, windows: 4, seq_len: 32, tokens: 128 });
  }));

Deno.test("a record with infinite scores comes back as it was", () =>
  withModel(async (folder) => {
    const record = {
      ...await quantize(folder, "out"),
      scores: { perplexity: { perplexity: Infinity, original_perplexity: NaN, nll: 1.5 } },
    };
    assert.deepEqual(parseRecord(new TextDecoder().decode(recordSidecar(record).bytes)), record);
  }));

Deno.test("a certificate comes back as it was, infinite limits too, and one that cannot be is refused", () =>
  withModel(async (folder) => {
    const limit = {
      quantity: "kl_divergence",
      bound: 0.05,
      measured: 0.04,
      limit: Infinity,
    } as const;
    const certificate = {
      holds: false,
      limits: [{ ...limit, holds: false }],
      confidence: 0.95,
      tries: 6,
      text: { ...TEXT, windows: 16, seq_len: 32, tokens: 512 },
      steering_windows: 6,
    };
    const record = { ...await quantize(folder, "out"), certificate };
    const text = new TextDecoder().decode(recordSidecar(record).bytes);
    assert.deepEqual(parseRecord(text), record);
    for (
      const wrong of [
        { tries: 0 },
        { tries: 1.5 },
        { confidence: 1 },
        { steering_windows: -1 },
        { text: null },
        { limits: [{ ...limit, quantity: "speed", holds: false }] },
      ]
    ) {
      const other = { ...record, certificate: { ...certificate, ...wrong } };
      assert.throws(() => parseRecord(JSON.stringify(other)), /its "certificate" is not/);
    }
  }));

Deno.test("a record that is none is refused with a sentence, whichever of its keys is wrong", () =>
  withModel(async (folder) => {
    const record = await quantize(folder, "out");
    const refused = (text: string, says: RegExp) =>
      assert.throws(
        () => parseRecord(text),
        (error) => error instanceof CheckpointError && says.test(error.message),
        text.slice(0, 200),
      );
    refused("{", /is not JSON/);
    refused("[]", /holds no object/);
    refused(JSON.stringify({ ...record, version: 2 }), /its version is 2, and this Sluice reads 1/);
    for (const key of Object.keys(record).filter((key) => key !== "version")) {
      const without = JSON.stringify({ ...record, [key]: undefined });
      // Records of before these were told had none.
      if (key === "energy" || key === "certificate" || key === "along_depth") {
        assert.equal(parseRecord(without)[key], null);
      } else refused(without, new RegExp(`its "${key}" is not`));
      const wrong = key === "command" || key === "calibrate_on" ? 7 : "wrong";
      if (typeof (record as unknown as Record<string, unknown>)[key] !== "string") {
        refused(JSON.stringify({ ...record, [key]: wrong }), new RegExp(`its "${key}" is not`));
      }
    }
    refused(
      JSON.stringify({ ...record, scores: { perplexity: { perplexity: "x" } } }),
      /its "scores"/,
    );
    const kind = { kind: "up", layers: [0, 1], bits: [4, 4], output_error: [null, 0.1] };
    const along = (kinds: unknown) =>
      JSON.stringify({ ...record, along_depth: { stream_error: [0.1, null], kinds } });
    parseRecord(along([{ ...kind, weight_error: [0.1, 1e-9] }]));
    for (const weight_error of [[0.1], [0.1, 0.1, 0.1], [0.1, "NaN"], undefined]) {
      refused(along([{ ...kind, weight_error }]), /its "along_depth"/);
    }
    // Later versions may tell more.
    parseRecord(JSON.stringify({ ...record, more: 1, model: { ...record.model, more: 1 } }));
    await using source = await openCheckpoint(`${folder}/out`);
    assert.deepEqual(await readRecord(source), record);
  }));

Deno.test("recipeDocument() is a recipe file that reads as the same recipe", () => {
  const rule = fc.record({
    scheme: fc.constantFrom(...schemeNames(), "none"),
    method: fc.constantFrom(
      "auto",
      ...METHODS.map(({ name }) => name).filter((name) => name !== "awq"),
    ),
    group_size: fc.option(fc.constantFrom(-1, 32, 128), { nil: undefined }),
  });
  const matched = fc.tuple(fc.constantFrom("*.o_proj", "re:.*up"), rule)
    .map(([match, values]) => ({ match, ...values }));
  const file = fc.record({
    top: fc.option(rule, { nil: {} }),
    rules: fc.array(matched, { maxLength: 3 }),
    ignore: fc.array(fc.constantFrom("re:.*layers\\.0\\.", "*.q_proj"), { maxLength: 2 }),
    format: fc.option(fc.constantFrom("gptq", "plain"), { nil: undefined }),
    max_shard_size: fc.integer({ min: 1, max: 1e12 }),
    calibrate_on: fc.constantFrom("quantized", "float"),
  });
  fc.assert(fc.property(file, ({ top, ...rest }) => {
    const recipe = parseRecipe(JSON.stringify({ ...top, ...rest }), "x");
    assert.deepEqual(parseRecipe(JSON.stringify(recipeDocument(recipe)), "x"), recipe);
  }));
  const quantile = recipeFromOptions({ scheme: "LLM_INT8", "outlier-quantile": 0.99 });
  assert.equal(recipeDocument(quantile).outlier_quantile, 0.99);
  const [found] = quantile.rules;
  const settled = { ...quantile, rules: [{ ...found!, options: { threshold: 4.5 } }] };
  const { threshold, outlier_quantile } = recipeDocument(settled);
  assert.deepEqual([threshold, outlier_quantile], [4.5, undefined]);
});

Deno.test("a text is told by its name without its folder, and by the SHA-256 of the tokens of its windows", async () => {
  await using source = await open("sample");
  const folder = await Deno.makeTempDir({ prefix: "sluice_text_" });
  try {
    const text = "It was a bright cold day in April. ".repeat(60);
    await Deno.writeTextFile(`${folder}/a.txt`, text);
    await Deno.writeTextFile(`${folder}/b.txt`, `${text}And more of it.`);
    const prepare = (name: string, seed?: number) =>
      prepareCalibration(source, {
        corpus: `${folder}/${name}`,
        seqLen: 16,
        numSamples: 3,
        ...(seed === undefined ? {} : { seed }),
      });
    const a = await prepare("a.txt");
    assert.equal(a.corpus, "a.txt");
    const bytes = new Uint8Array(await new Blob([...a.windows]).arrayBuffer());
    const digest = await crypto.subtle.digest("SHA-256", bytes);
    assert.equal(a.sha256, new Uint8Array(digest).toHex());
    // The same windows of another text are the same evidence.
    assert.equal((await prepare("b.txt")).sha256, a.sha256);
    assert.notEqual((await prepare("a.txt", 5)).sha256, a.sha256);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
