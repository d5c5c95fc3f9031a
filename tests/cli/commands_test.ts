/** Every command on the sample model: what it prints, what it writes, what it leaves. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import denoJson from "../../deno.json" with { type: "json" };
import { METRICS } from "../../src/metrics/mod.ts";
import { RECORD_FILE } from "../../src/io/names.ts";
import { schemeNames } from "../../src/schemes/options.ts";
import { COMMANDS } from "../../src/terminal/commands/mod.ts";
import { Interrupted } from "../../src/terminal/faults.ts";
import { convolutionalTensors, makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, names, sluice } from "./host.ts";

/** Characters that a terminal acts on, but for the newline. */
// deno-lint-ignore no-control-regex -- control characters are what is looked for
const ACTS = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/;

const ON_CPU = ["--device", "wasm"] as const;

/** Lines of JSON. */
function jsonLines(text: string): Record<string, unknown>[] {
  return text.trimEnd().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** Run `test` with a Llama of two blocks that is no sample, so that runs are short. */
function withTiny(test: (model: string, folder: string) => Promise<void>): Promise<void> {
  return inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    await test(`${folder}/model`, folder);
  });
}

Deno.test("--version prints the version of deno.json", async () => {
  assert.deepEqual(await sluice(["--version"]), { code: 0, out: `${denoJson.version}\n`, err: "" });
});

Deno.test("--help lists every command", async () => {
  const { code, out, err } = await sluice(["--help"]);
  assert.deepEqual([code, err], [0, ""]);
  for (const { name } of COMMANDS) assert.match(out, new RegExp(`^  ${name} `, "m"));
});

for (const row of COMMANDS) {
  Deno.test(`${row.name} --help shows every flag and two to four examples that parse`, async () => {
    const { code, out, err } = await sluice([row.name, "--help"]);
    assert.deepEqual([code, err], [0, ""]);
    const command = await row.load();
    for (const { name } of command.flags) assert.ok(out.includes(`--${name}`), name);
    assert.ok(command.examples.length >= 2 && command.examples.length <= 4);
    for (const [line] of command.examples) {
      const [name, ...words] = line.split(" ");
      assert.equal(name, row.name);
      const known = words.filter((word) => word.startsWith("--")).map((word) => word.slice(2));
      for (const flag of known) assert.ok(command.flags.some(({ name }) => name === flag), flag);
    }
  });
}

for (
  const [words, says] of [
    [[], /Say what to do: quantize, /],
    [["quantise", "sample"], /Unknown command 'quantise'\. Did you mean quantize\?/],
    [["quantize"], /Missing required argument 'model'/],
    [["quantize", "sample", "--group-sise", "64"], /Did you mean --group-size\?/],
    [["quantize", "sample", "other"], /Too many arguments/],
    [["quantize", "sample"], /say where the result goes/],
    [["quantize", "sample", "--output", "out", "--group-size", "much"], /whole number/],
    [["quantize", "sample", "--output", "out", "--scheme", "W9A16"], /W9A16.*W4A16, /],
    [["quantize", "sample", "--output", "out", "--device", "cuda"], /auto, webgpu, wasm/],
    [["quantize", "sample", "--output", "out", "--max-shard-size", "5 apples"], /500MB or 4GiB/],
    [["quantize", "sample", "--output", "out", "--recipe", "none.yaml"], /no such file/],
    [["plan", "sample", "--scheme", "NF4", "--group-size", "64"], /--group-size.*NF4/],
    [["inspect", "./nothing/here"], /no such file or folder/],
    [["evaluate", "sample", "--corpus", "none.txt"], /no such file/],
  ] as const
) {
  Deno.test(`sluice ${words.join(" ")} is a wrong request`, async () => {
    const { code, out, err } = await sluice(words);
    assert.equal(code, 1, err);
    assert.equal(out, "");
    assert.match(err, says);
    assert.match(err, /^sluice: [^\n]+\n$/);
  });
}

Deno.test("plan shows layers folded together, files, memory and loaders", async () => {
  const { code, out, err } = await sluice(["plan", "sample", "--group-size", "64", ...ON_CPU]);
  assert.equal(code, 0);
  // Int weights of 4 bits are calibrated, for want of another text on the embedded one.
  assert.match(err, /^sluice: warning: Calibrating on the embedded sample text[^\n]+\n$/);
  assert.match(
    out,
    /^model\.layers\.\{0\.\.3\}\.input_layernorm\.weight +bf16, divided by the scales/m,
  );
  assert.match(out, /^model\.layers\.\{0\.\.3\}\.mlp\.up_proj\.weight +int4, groups of 64.* 4 /m);
  assert.match(out, /^model\.safetensors +94 /m);
  assert.match(out, /^quantized +3,014,656 weights at 4\.251 bits each$/m);
  assert.match(out, /^memory .*runtime/m);
  assert.match(out, /^vLLM +yes/m);
});

Deno.test("plan and quantize tell before the run that nothing opens the result, names in quotes as they are", () =>
  inFolder(async (folder) => {
    const model = await makeCheckpoint(convolutionalTensors(), {
      config: { model_type: "resnet", architectures: ["ResNetForImageClassification"] },
    });
    await Deno.rename(model, `${folder}/model`);
    const flags = [`${folder}/model`, "--scheme", "W8A16", ...ON_CPU];
    const planned = await sluice(["plan", ...flags]);
    assert.match(planned.out, /^transformers +no +"conv1\.weight" has 4 dimensions/m);
    const told = /warning: No loader opens this model in compressed-tensors: .*Format plain writes/;
    assert.match(planned.err, told);
    assert.match((await sluice(["quantize", ...flags, "--output", `${folder}/a`])).err, told);
    const plain = await sluice([
      "quantize",
      ...flags,
      "--format",
      "plain",
      "--output",
      `${folder}/b`,
    ]);
    assert.equal(plain.code, 0);
    assert.doesNotMatch(plain.err, /No loader/);
    const verified = await sluice([
      "verify",
      `${folder}/b`,
      "--source",
      `${folder}/model`,
      ...ON_CPU,
    ]);
    assert.equal(verified.code, 0, verified.err);
    assert.match(verified.out, /^conv1\.weight +rounded values in f32/m);
  }));

Deno.test("plan --json tells where every tensor will be, and quantize puts it there", () =>
  withTiny(async (model, folder) => {
    const flags = [model, "--group-size", "32", "--method", "rtn", ...ON_CPU];
    const { out } = await sluice(["plan", ...flags, "--json"]);
    const plan = JSON.parse(out) as {
      tensors: {
        name: string;
        fate: string;
        outputs: { file: string; name: string; shape: number[]; begin: number; end: number }[];
      }[];
      files: { path: string; size: number }[];
    };
    assert.deepEqual(
      new Set(plan.tensors.map(({ name }) => name)),
      new Set(tinyTensors().map(({ name }) => name)),
    );
    const output = `${folder}/out`;
    const done = await sluice(["quantize", ...flags, "--output", output, "--quiet"]);
    assert.deepEqual(done, { code: 0, out: "", err: "" });
    // What the record will hold is not known before the run.
    for (const { path, size } of plan.files.filter(({ path }) => path !== RECORD_FILE)) {
      assert.equal(Deno.statSync(`${output}/${path}`).size, size, path);
    }
    const { out: inspected } = await sluice(["inspect", output, "--json"]);
    const found = JSON.parse(inspected) as { tensors: { name: string; shape: number[] }[] };
    const planned = plan.tensors.flatMap(({ outputs }) => outputs);
    assert.deepEqual(
      found.tensors.map(({ name, shape }) => ({ name, shape })),
      planned.toSorted((a, b) => a.begin - b.begin).map(({ name, shape }) => ({ name, shape })),
    );
  }));

for (const scheme of schemeNames()) {
  Deno.test(`quantize to ${scheme}, then verify against the source`, () =>
    withTiny(async (model, folder) => {
      const output = `${folder}/out`;
      const group = /^W[2-7]A/.test(scheme) ? ["--group-size", "32"] : [];
      const method = group.length > 0 ? ["--method", "rtn"] : [];
      const words = ["quantize", model, "--scheme", scheme, ...group, ...method];
      const done = await sluice([...words, "--output", output, ...ON_CPU]);
      // The tiny model is bf16: there is nothing to cast.
      if (scheme === "BF16") {
        assert.equal(done.code, 1);
        return;
      }
      assert.equal(done.code, 0, done.err);
      assert.match(done.out, /^bits per weight +\d/m);
      const checked = await sluice(["verify", output, "--source", model, ...ON_CPU, "--json"]);
      assert.equal(checked.code, 0, checked.err);
      const report = jsonLines(checked.out).at(-1)!;
      const casts = ["F16", "F32"].includes(scheme);
      assert.equal((report.quantized as unknown[]).length, casts ? 21 : 14);
      assert.equal(report.copied, casts ? 0 : 7);
    }));
}

Deno.test("static activations and smoothing are flags: calibrated, written, and verified", () =>
  inFolder(async (folder) => {
    const out = `${folder}/out`;
    const text = ["--num-samples", "3", "--seq-len", "64", ...ON_CPU];
    const scheme = ["--scheme", "W8A8", "--method", "smoothquant", "--alpha", "0.7"];
    const fixed = ["--activations", "static", "--observer", "percentile", "--percentile", "99.9"];
    const words = ["quantize", "sample", ...scheme, ...fixed, ...text, "--output", out];
    const { code, err } = await sluice(words);
    assert.equal(code, 0, err);
    const verified = await sluice(["verify", out, "--source", "sample", ...ON_CPU]);
    assert.equal(verified.code, 0, verified.err);
    const wrong = [
      [["--observer", "mse"], /Cannot use --observer with W8A8 and dynamic activations/],
      [["--alpha", "2"], /Cannot use --alpha "2": it must be search, or a number from 0 to 1/],
      [["--activations", "sometimes"], /it must be one of dynamic, static/],
    ] as const;
    for (const [words, says] of wrong) {
      const { code, err } = await sluice(["plan", "sample", "--scheme", "W8A8", ...words, ...text]);
      assert.equal(code, 1, words.join(" "));
      assert.match(err, says);
    }
  }));

Deno.test("quantize --dry-run is plan, and writes nothing", () =>
  withTiny(async (model, folder) => {
    const flags = [model, "--scheme", "W8A16", ...ON_CPU];
    const dry = await sluice(["quantize", ...flags, "--output", `${folder}/out`, "--dry-run"]);
    assert.equal(dry.out, (await sluice(["plan", ...flags])).out);
    assert.deepEqual(names(folder), ["model"]);
  }));

Deno.test("quantize --evaluate ends with size, bits, perplexity, divergence, time and memory", () =>
  inFolder(async (folder) => {
    const { code, out, err } = await sluice([
      ...["quantize", "sample", "--group-size", "64", "--output", `${folder}/out`, ...ON_CPU],
      ...["--evaluate", "--seq-len", "64", "--num-samples", "2"],
    ]);
    assert.equal(code, 0, err);
    for (
      const row of [
        /^size +3\.98 MB, from 8\.13 MB$/m,
        /^bits per weight +4\.251$/m,
        /^perplexity before +\d+\.\d{4}$/m,
        /^perplexity after +\d+\.\d{4} +\([+-]\d+\.\d+ %\)$/m,
        /^KL divergence +0\.0\d+ ± 0\.00\d+ nats per token, 99 % below 0\.\d+$/m,
        /^same top token +\d+\.\d+ %$/m,
        /^time +\d/m,
        /^peak memory +[\d.]+ [MG]B at most, planned \d+ MB$/m,
        /^transformers +yes/m,
      ]
    ) assert.match(out, row);
    assert.match(err, /measured on 2 of 1,\d{3} windows of 64 tokens/);
  }));

for (
  const flags of [["--scheme", "W4A16", "--group-size", "64", "--method", "rtn"], [
    "--scheme",
    "W8A8",
  ], [
    "--scheme",
    "NF4",
  ]]
) {
  Deno.test(`evaluate --reference measures what quantize --evaluate measured (${flags[1]})`, () =>
    inFolder(async (folder) => {
      const text = [...["--seq-len", "64", "--num-samples", "2"], ...ON_CPU, "--json"];
      const output = `${folder}/out`;
      const done = await sluice(
        ["quantize", "sample", ...flags, "--output", output, "--evaluate", ...text],
      );
      assert.equal(done.code, 0, done.err);
      const again = await sluice(["evaluate", output, "--reference", "sample", ...text]);
      assert.equal(again.code, 0, again.err);
      const scores = (out: string) => jsonLines(out).at(-1)!.scores;
      assert.deepEqual(scores(again.out), scores(done.out));
    }));
}

Deno.test("evaluate alone prints the perplexity of one model, and how many windows it saw", async () => {
  const words = ["evaluate", "sample", "--seq-len", "32", "--num-samples", "3", ...ON_CPU];
  const { code, out, err } = await sluice([...words, "--quiet"]);
  assert.equal(code, 0, err);
  assert.equal(err, "");
  assert.match(out, /^perplexity +\d+\.\d{4}$/m);
  assert.match(out, /^measured on +3 of 3,\d{3} windows of 32 tokens/m);
  assert.doesNotMatch(out, /KL/);
});

Deno.test("evaluate spills hidden states that do not fit, with the same result, and removes the file", () =>
  inFolder(async (folder) => {
    const made: string[] = [];
    const words = ["evaluate", "sample", "--seq-len", "64", "--num-samples", "3", ...ON_CPU];
    const all = await sluice([...words, "--json"]);
    const few = await sluice([...words, "--max-states", "70kB", "--json"], {
      async temporaryFolder() {
        const path = await Deno.makeTempDir({ dir: folder });
        made.push(path);
        const remove = () => Deno.remove(path, { recursive: true });
        return { path, keep: () => Promise.resolve(), [Symbol.asyncDispose]: remove };
      },
    });
    assert.equal(few.code, 0, few.err);
    const scores = (out: string) => jsonLines(out).at(-1)!.scores;
    assert.deepEqual(scores(few.out), scores(all.out));
    assert.equal(made.length, 1);
    assert.deepEqual(names(folder), []);
  }));

Deno.test("quantize --json prints events and the result, each a line of JSON", () =>
  withTiny(async (model, folder) => {
    const words = ["quantize", model, "--scheme", "W8A16", "--output", `${folder}/out`, ...ON_CPU];
    const { code, out } = await sluice([...words, "--json"]);
    assert.equal(code, 0);
    const types = jsonLines(out).map(({ type }) => type);
    assert.deepEqual(
      [...new Set(types)].sort(),
      ["committed", "copied", "finished", "quantized", "result", "start"],
    );
    assert.equal(types[0], "start");
    assert.equal(types.at(-1), "result");
    assert.equal(types.filter((type) => type === "quantized").length, 14);
  }));

Deno.test("--metrics prints a table, or writes CSV with a row per weight and every metric", () =>
  withTiny(async (model, folder) => {
    const words = ["quantize", model, "--scheme", "W8A16", ...ON_CPU, "--output"];
    const table = await sluice([...words, `${folder}/a`, "--metrics"]);
    assert.match(table.out, /^WEIGHT +SCHEME +BITS +SQNR_DB/m);
    const csv = await sluice([...words, `${folder}/b`, "--metrics", `${folder}/m.csv`]);
    assert.equal(csv.code, 0, csv.err);
    const [head, ...rows] = readFileSync(`${folder}/m.csv`, "utf8").trimEnd().split("\n");
    assert.equal(
      head,
      `weight,scheme,bits_per_weight,${METRICS.map(({ name }) => name).join(",")}`,
    );
    assert.equal(rows.length, 14);
    const sqnr = rows.map((row) =>
      Number(row.match(/("[^"]*"|[^,]*)(,|$)/g)![3]!.replace(",", ""))
    );
    // 8 bits of a uniform weight: about 6.02·8 dB, and a scale per row costs at most a few.
    for (const value of sqnr) assert.ok(value > 42 && value < 54, String(value));
  }));

Deno.test("--log-file appends every event as a line with the time", () =>
  withTiny(async (model, folder) => {
    const log = `${folder}/run.log`;
    await Deno.writeTextFile(log, "before\n");
    await sluice([
      ...["quantize", model, "--scheme", "W8A16", "--output", `${folder}/out`, ...ON_CPU],
      ...["--log-file", log, "--quiet"],
    ]);
    const [first, ...lines] = readFileSync(log, "utf8").trimEnd().split("\n");
    assert.equal(first, "before");
    for (const line of lines) assert.match(line, /^\d{4}-\d\d-\d\dT[\d:.]+Z \S/);
    assert.equal(lines.filter((line) => / quantized /.test(line)).length, 14);
  }));

Deno.test("quantize leaves an existing output alone, replaces it when told, and never its own source", () =>
  withTiny(async (model, folder) => {
    const words = ["quantize", model, "--scheme", "W8A16", ...ON_CPU, "--quiet", "--output"];
    const output = `${folder}/out`;
    assert.equal((await sluice([...words, output])).code, 0);
    const before = readFileSync(`${output}/model.safetensors`);
    const again = await sluice([...words, output]);
    assert.equal(again.code, 1);
    assert.match(again.err, /exists.*--overwrite/);
    const other = await sluice([
      "quantize",
      model,
      "--scheme",
      "FP8",
      "--output",
      output,
      "--overwrite",
      ...ON_CPU,
    ]);
    assert.equal(other.code, 0, other.err);
    assert.notDeepEqual(readFileSync(`${output}/model.safetensors`), before);
    const itself = await sluice([...words, model, "--overwrite"]);
    assert.equal(itself.code, 1);
    assert.match(itself.err, /the checkpoint that is read lies there/);
    assert.deepEqual(readdirSync(folder).sort(), ["model", "out"]);
  }));

Deno.test("a recipe decides alone: other flags of what weights become are refused beside it", () =>
  withTiny(async (model, folder) => {
    const recipe = `${folder}/recipe.yaml`;
    await Deno.writeTextFile(
      recipe,
      'scheme: W4A16\nmethod: rtn\ngroup_size: 32\nrules:\n  - match: "re:.*down_proj"\n    scheme: W8A16\n',
    );
    const words = ["plan", model, "--recipe", recipe, ...ON_CPU];
    const { code, out } = await sluice(words);
    assert.equal(code, 0);
    assert.match(out, /down_proj\.weight +int8/);
    assert.match(out, /up_proj\.weight +int4, groups of 32/);
    for (const extra of [["--scheme", "NF4"], ["--ignore", "*"], ["--max-shard-size", "1GB"]]) {
      const refused = await sluice([...words, ...extra]);
      assert.equal(refused.code, 1);
      assert.match(refused.err, /together: the recipe says what weights become/);
    }
  }));

Deno.test("--ignore may be repeated, and --no-double-quant turns it off", () =>
  withTiny(async (model) => {
    const ignoring = await sluice([
      ...["plan", model, "--scheme", "NF4", "--no-double-quant", ...ON_CPU, "--json"],
      ...["--ignore", "re:.*layers\\.0\\.mlp", "--ignore", "model.layers.1.mlp.*"],
    ]);
    assert.equal(ignoring.code, 0, ignoring.err);
    const { tensors } = JSON.parse(ignoring.out) as {
      tensors: { name: string; fate: string; scheme: { double_quant: boolean } | null }[];
    };
    const quantized = tensors.filter(({ fate }) => fate === "quantize");
    assert.equal(quantized.length, 8);
    assert.ok(quantized.every(({ name }) => name.includes("self_attn")));
    assert.ok(quantized.every(({ scheme }) => scheme?.double_quant === false));
  }));

Deno.test("an interrupted quantize exits with 75, and the same command goes on; with --no-resume nothing is left", () =>
  withTiny(async (model, folder) => {
    const stopped = async (words: readonly string[]) => {
      const stop = new AbortController();
      const err = keeper({
        onWrite(text) {
          if (/40 %/.test(text)) stop.abort(new Interrupted());
        },
      });
      const { code } = await sluice(words, { signal: stop.signal, err });
      assert.equal(code, 75);
      return err.text();
    };
    const words = [
      ...["quantize", model, "--scheme", "W8A16", "--output", `${folder}/out`, ...ON_CPU],
      // A command line that is longer than a name may be shown.
      ...["--max-ram", "8GB", "--max-shard-size", "1GB", "--max-disk", "1GB"],
    ];
    const plain = await stopped([...words, "--no-resume"]);
    assert.match(
      plain,
      /sluice: Stopped\. Nothing was left behind; the same command starts again[^\n]*\n$/,
    );
    assert.deepEqual(names(folder), ["model"]);
    assert.match(
      await stopped(words),
      /sluice: Stopped\. The same command goes on after 1 of 4 units\.\n$/,
    );
    assert.deepEqual(names(folder), ["model", "out.sluice-partial"]);
    const status = await sluice(["status", `${folder}/out`]);
    assert.equal(status.code, 0, status.err);
    assert.match(status.out, /^run +stopped; the same command goes on\n/);
    assert.match(status.out, /^saved +1 of 4 units, up to embedding$/m);
    assert.match(
      status.out,
      /^command +sluice quantize \.\/model --scheme W8A16 .* --output folder$/m,
    );
    // As a kill leaves it before the first save.
    const journal = `${folder}/out.sluice-partial/journal.jsonl`;
    const whole = await Deno.readTextFile(journal);
    await Deno.writeTextFile(journal, whole.slice(0, whole.indexOf("\n") + 1));
    const unsaved = await sluice(["status", `${folder}/out`]);
    assert.match(
      unsaved.out,
      /^run +stopped; the same command begins again\nsaved +0 of 4 units$/m,
    );
    await Deno.writeTextFile(journal, whole);
    const other = await sluice(words.map((word) => word === "W8A16" ? "NF4" : word));
    assert.equal(other.code, 1);
    assert.match(
      other.err,
      /what was begun there is another run: recipe\.scheme was "W8A16" and is "NF4"\. .* --restart\.\n$/,
    );
    assert.equal((await sluice(words)).code, 0);
    assert.deepEqual(names(folder), ["model", "out"]);
    assert.match((await sluice(["status", `${folder}/out`])).out, /^run +finished\n$/);
    assert.equal((await sluice(["status", folder])).code, 1);
  }));

Deno.test("inspect shows dtypes, files and the quantization of a checkpoint", () =>
  withTiny(async (model, folder) => {
    const output = `${folder}/out`;
    await sluice(["quantize", model, "--scheme", "NF4", "--output", output, ...ON_CPU]);
    const { code, out } = await sluice(["inspect", output]);
    assert.equal(code, 0);
    assert.match(out, /^quantization +bitsandbytes$/m);
    assert.match(out, /^u8 +\d+/m);
    assert.match(out, /^model\.safetensors +/m);
    assert.match(out, /^config\.json +/m);
  }));

Deno.test("devices names the CPU and its limits, and --json has every adapter", async () => {
  const { code, out } = await sluice(["devices"]);
  assert.equal(code, 0);
  assert.match(out, /^wasm +\d+ threads? of WebAssembly SIMD/m);
  const document = JSON.parse((await sluice(["devices", "--json"])).out) as {
    webgpu: { name: string; limits: Record<string, number> }[];
    wasm: { threads: number };
  };
  assert.equal(document.wasm.threads, navigator.hardwareConcurrency);
  for (const { limits } of document.webgpu) assert.ok(limits.max_buffer_size! > 0);
});

Deno.test("names from a checkpoint cannot move the cursor of a terminal", () =>
  inFolder(async (folder) => {
    const model = await makeCheckpoint(
      [{ name: "evil\u202ename\u2066.weight", dtype: "f32", shape: [8, 32] }],
      { config: { model_type: "evil\u001b[2J\u0007", "a\nb": "\u202e" } },
    );
    await Deno.rename(model, `${folder}/model`);
    for (
      const words of [
        ["inspect", `${folder}/model`],
        ["plan", `${folder}/model`, "--scheme", "W8A16", ...ON_CPU],
        [
          "quantize",
          `${folder}/model`,
          "--scheme",
          "W8A16",
          ...ON_CPU,
          "--output",
          `${folder}/out`,
          "--metrics",
        ],
      ]
    ) {
      const { out, err } = await sluice(words);
      assert.doesNotMatch(out + err, ACTS, words[0]);
    }
  }));

Deno.test("curves and granularity refuse a checkpoint that is quantized already", () =>
  inFolder(async (folder) => {
    const out = `${folder}/out`;
    const words = ["quantize", "sample", "--scheme", "NF4", "--output", out, ...ON_CPU];
    assert.equal((await sluice(words)).code, 0);
    for (const command of ["curves", "granularity"]) {
      const { code, err } = await sluice([command, out, ...ON_CPU]);
      assert.equal(code, 1, command);
      assert.match(
        err,
        /it is quantized already \(bitsandbytes\)\. Give the original\.\n$/,
        command,
      );
    }
  }));
