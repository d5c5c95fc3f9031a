/**
 * `--json`: what is printed has exactly the keys that README.md lists, spelled in one way, whatever
 * happens.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { RECORD_FILE } from "../../src/io/names.ts";
import { SpaceError } from "../../src/errors.ts";
import { demoDocument } from "../../src/terminal/commands/demo.ts";
import { jsonLine } from "../../src/terminal/json.ts";
import { Interrupted, ReaderGone } from "../../src/terminal/faults.ts";
import { startFakeHub, TOKEN } from "../fake_hub/mod.ts";
import { tableRows } from "../readme_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, names, type Outcome, sluice } from "./host.ts";

const ON_CPU = ["--device", "wasm"] as const;
const TEXT = ["--seq-len", "32", "--num-samples", "2"] as const;

type Json = Readonly<Record<string, unknown>>;

/** The keys of each line of the README's table. */
const SCHEMA = new Map(tableRows("Line", "Keys").map(([line, keys]) => [line!, keysIn(keys!)]));

/** Names in backticks, but for those in brackets. */
function keysIn(cell: string): string[] {
  return [...cell.replace(/ \([^)]*\)/g, "").matchAll(/`(\w+)`/g)].map(([, key]) => key!);
}

/** The keys that a line must have, of those of the record where the table says so. */
function keysOf(line: string): string[] {
  const keys = SCHEMA.get(line);
  assert.ok(keys, `README.md has no line ${line}`);
  const record = tableRows("Key", "Holds").flatMap(([keys]) => keysIn(keys!));
  if (line === "each of `outputs` of `plan`") return [...keys, ...keysOf("`result` of `plan`")];
  const isRecord = [
    "`result` of `quantize`",
    "`result` of `merge`",
    "each of `outputs` of `quantize`",
  ].includes(line);
  return isRecord ? [...keys, ...record, "version"] : keys;
}

/** Lists and objects that have a line of their own, by the key they are under. */
const INNER: Readonly<Record<string, string>> = {
  tensor: "`tensor`, each of `quantized`",
  quantized: "`tensor`, each of `quantized`",
  calibration: "`calibration`, `evaluation`",
  evaluation: "`calibration`, `evaluation`",
  loaders: "each of `loaders`",
  results: "each of `results`",
  proposals: "each of `proposals`",
  jobs: "each of `jobs`",
};

/** Check one object that was printed by a command. */
function check(printed: Json, command: string): string {
  const { type } = printed;
  const several = type === "result" && Array.isArray(printed.outputs);
  const line = type === "result"
    ? `\`result\` of \`${command}\`${several ? " of several outputs" : ""}`
    : `\`${type}\``;
  const { type: _, ...rest } = printed;
  assert.deepEqual(Object.keys(rest).sort(), keysOf(line).sort(), line);
  const inner = { ...INNER, ...(type === "result" ? { warnings: "each of `warnings`" } : {}) };
  for (const [key, name] of Object.entries(inner)) {
    const value = rest[key];
    for (const one of Array.isArray(value) ? value : [value]) {
      if (typeof one !== "object" || one === null) continue;
      assert.deepEqual(Object.keys(one).sort(), keysOf(name).sort(), `${line}: ${key}`);
    }
  }
  for (const one of several ? printed.outputs as Json[] : []) {
    const keys = keysOf(`each of \`outputs\` of \`${command}\``);
    assert.deepEqual(Object.keys(one).sort(), keys.sort(), line);
  }
  if (command === "plan" && type === "result" && !several) {
    for (const tensor of printed.tensors as Json[]) {
      assert.deepEqual(Object.keys(tensor).sort(), keysOf("each of `tensors` of `plan`").sort());
    }
  }
  if (type === "job") check(printed.line as Json, "quantize");
  checkSpelling(rest, line);
  return line;
}

/** Keys are in snake_case, but for what others have written. */
function checkSpelling(value: unknown, place: string): void {
  if (typeof value !== "object" || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    if (!Array.isArray(value)) {
      if (key === "section" || key === "gate") continue;
      // A warning's code is a name, too.
      if (!place.endsWith(".warnings")) assert.match(key, /^[a-z][a-z0-9_]*$/, place);
    }
    checkSpelling(inner, `${place}.${key}`);
  }
}

/** Check all that a command line printed: lines, or one object. */
function checkAll({ out, code, err }: Outcome, command: string, expected = 0): string[] {
  assert.equal(code, expected, err);
  const single = ["plan", "status", "inspect", "devices"].includes(command) && expected === 0;
  const printed = single ? [out] : out.trimEnd().split("\n");
  return printed.map((text) => check(JSON.parse(text) as Json, command));
}

Deno.test("everything that --json prints has the keys that README.md lists, and every line of it is seen", () =>
  inFolder(async (folder) => {
    const seen = new Set<string>();
    const note = (lines: string[]) => lines.forEach((line) => seen.add(line));
    const out = `${folder}/out`;
    const words = ["sample", "--group-size", "64", ...TEXT, "--evaluate", "--metrics", ...ON_CPU];
    note(
      checkAll(
        await sluice([
          "plan",
          ...words.filter((word) => word !== "--metrics"),
          "--json",
        ]),
        "plan",
      ),
    );
    note(checkAll(await sluice(["quantize", ...words, "--output", out, "--json"]), "quantize"));
    const { device: _, ...record } = JSON.parse(readFileSync(`${out}/${RECORD_FILE}`, "utf8"));
    assert.equal(record.methods[0].name, "awq+gptq");
    const evaluate = ["evaluate", out, "--reference", "sample", ...TEXT, ...ON_CPU, "--json"];
    note(checkAll(await sluice(evaluate), "evaluate"));
    note(checkAll(await sluice(["evaluate", "sample", ...TEXT, ...ON_CPU, "--json"]), "evaluate"));
    note(
      checkAll(await sluice(["verify", out, "--source", "sample", ...ON_CPU, "--json"]), "verify"),
    );
    const bound = ["--max-kl", "9", "--max-tries", "1", "--eval-num-samples", "22"];
    const search = ["sample", ...bound, "--method", "rtn", "--group-size", "64", "--seq-len", "16"];
    const searched = ["quantize", ...search, ...ON_CPU, "--output", `${folder}/bound`, "--json"];
    note(checkAll(await sluice(searched), "quantize"));
    const again = ["verify", `${folder}/bound`, "--source", "sample", "--certificate"];
    note(checkAll(await sluice([...again, ...ON_CPU, "--json"]), "verify"));
    const curves = ["curves", "sample", "--tensor", "*.0.self_attn.k_proj", ...ON_CPU, "--json"];
    note(checkAll(await sluice(curves), "curves"));
    const granularity = ["granularity", "sample", "--seq-len", "16", "--num-samples", "1"];
    note(checkAll(await sluice([...granularity, ...ON_CPU, "--json"]), "granularity"));
    const advise = ["advise", "sample", "--hardware", "h100", "--try", "2", ...ON_CPU, "--json"];
    note(checkAll(await sluice(advise), "advise"));
    note(checkAll(await sluice(["inspect", out, "--json"]), "inspect"));
    note(checkAll(await sluice(["inspect", "sample", "--json"]), "inspect"));
    note(checkAll(await sluice(["devices", "--json"]), "devices"));
    note(checkAll(await sluice(["quantize", ...words, "--output", out, "--json"]), "quantize", 1));
    const stop = new AbortController();
    const stopping = {
      signal: stop.signal,
      err: keeper({ onWrite: (text) => /40 %/.test(text) && stop.abort(new Interrupted()) }),
    };
    const stopped = ["quantize", "sample", "--scheme", "NF4", ...ON_CPU, "--json"];
    const partial = [...stopped, "--output", `${folder}/partial`];
    note(checkAll(await sluice(partial, stopping), "quantize", 75));
    note(checkAll(await sluice(["status", `${folder}/partial`, "--json"]), "status"));
    note(checkAll(await sluice(partial), "quantize"));
    const job = `${folder}/job`;
    await sluice(["plan", "sample", "--scheme", "NF4", ...ON_CPU, "--work-dir", job]);
    note(checkAll(await sluice(["work", job, "--json"]), "work"));
    note(checkAll(await sluice(["merge", job, "--output", `${job}-out`, "--json"]), "merge"));
    const both = `${folder}/both.json`;
    const outputs = [{ scheme: "NF4" }, { scheme: "W8A8", method: "rtn" }];
    await Deno.writeTextFile(both, JSON.stringify({ outputs }));
    const several = ["sample", "--recipe", both, ...ON_CPU, "--json"];
    note(checkAll(await sluice(["plan", ...several]), "plan"));
    const made = ["--output", `${folder}/made`];
    note(checkAll(await sluice(["quantize", ...several, ...made]), "quantize"));
    const file = `${folder}/batch.yaml`;
    const recipes = { nf4: { scheme: "NF4" }, none: { scheme: "W4A16", ignore: ["nothing*"] } };
    const jobs = { output: `${folder}/batch`, models: ["sample"], recipes };
    await Deno.writeTextFile(file, JSON.stringify({ ...jobs, flags: { device: "wasm" } }));
    note(checkAll(await sluice(["batch", file, "--json"]), "batch", 1));
    await using hub = await startFakeHub();
    const env: Record<string, string> = { HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN };
    const publish = ["publish", out, "me/out", "--yes", ...ON_CPU, "--json"];
    const onHub = { env: (name: string) => env[name] };
    note(checkAll(await sluice(publish, onHub), "publish"));
    const uploaded = [...stopped, "--upload-repo", "me/nf4", "--yes"];
    note(checkAll(await sluice(uploaded, onHub), "quantize"));
    // Which takes a minute, and so only its words are made here.
    const text = { corpus: "sample", available: 9, sha256: "5ea1", tokens: 64, seqLen: 32 };
    const windows = { windows: [], stateBudget: 1, seed: undefined, ...text };
    const report = { scores: { divergence: { mean: 0.1, p99: Infinity } }, seconds: 1 };
    const flags = { scheme: "W4A16", "group-size": "64" };
    const demo = jsonLine(
      demoDocument([{ title: "int4", flags, bytes: 1, bits: 4, report }], {
        windows,
        warnings: [{ code: "few-tokens", message: "few" }],
      }),
    );
    note(checkAll({ out: demo, code: 0, err: "" }, "demo"));
    const all = [...SCHEMA.keys()].filter((line) => /^`\w+`$|^`result`/.test(line));
    assert.deepEqual([...seen].sort(), all.filter((line) => line !== "`tensor`").sort());
  }));

for (
  const [words, status, code] of [
    [["quantize", "sample", "--output", "out", "--scheme", "W9A16"], 1, "request"],
    [["quantize", "sample", "--otput", "out"], 1, "request"],
    [["inspect", "./nothing/here"], 1, "request"],
    [["plan", "sample", "--scheme", "NF4", "--group-size", "64", ...ON_CPU], 1, "request"],
    [["evaluate", "org/none", ...ON_CPU], 4, "hub"],
  ] as const
) {
  Deno.test(`sluice ${words.join(" ")} --json ends with an error of code ${code} on standard output`, async () => {
    const env: Record<string, string> = { HF_HUB_OFFLINE: "1" };
    const outcome = await sluice([...words, "--json"], { env: (name) => env[name] });
    const { out, err } = outcome;
    assert.deepEqual(checkAll(outcome, words[0], status), ["`error`"]);
    const error = JSON.parse(out) as Json;
    assert.deepEqual([error.code, error.exit_status], [code, status]);
    assert.equal(`sluice: ${error.message}\n`, err);
  });
}

Deno.test("a section of someone's config.json keeps its own keys", () =>
  inFolder(async (folder) => {
    const section = { quant_method: "odd", modulesToKeep: { "lm-Head": 1 } };
    const model = await makeCheckpoint(tinyTensors(), {
      config: { ...TINY_CONFIG, quantization_config: section },
    });
    await Deno.rename(model, `${folder}/model`);
    const { out } = await sluice(["inspect", `${folder}/model`, "--json"]);
    assert.deepEqual((JSON.parse(out) as { quantization: Json }).quantization.section, section);
  }));

/** A stream that takes so many writes and then fails. */
function failing(after: number, fault: Error) {
  const kept = keeper();
  let left = after;
  return {
    ...kept,
    write(text: string) {
      if (left-- <= 0) throw fault;
      kept.write(text);
    },
  };
}

Deno.test("standard output that fails stops a command that only prints; one that makes a checkpoint goes on", () =>
  inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    const words = ["quantize", `${folder}/model`, "--scheme", "W8A16", ...ON_CPU, "--json"];
    const full = new SpaceError(`Cannot write to "standard output": full.`, { path: "-" });
    const gone = new ReaderGone("gone");
    for (const [fault, code, says] of [[full, 5, /standard output/], [gone, 0, /^$/]] as const) {
      for (const after of [0, 3]) {
        const output = `${folder}/out-${code}-${after}`;
        const out = failing(after, fault);
        const err = keeper();
        const made = await sluice([...words, "--quiet", "--output", output], { out, err });
        assert.equal(made.code, code);
        assert.match(err.text(), says);
        assert.ok(names(output).includes("model.safetensors"));
        const verify = ["verify", output, ...ON_CPU, "--json", "--quiet"];
        const messages = keeper();
        const checked = await sluice(verify, { out: failing(after, fault), err: messages });
        assert.equal(checked.code, code);
        assert.match(messages.text(), says);
      }
    }
  }));
