/**
 * README.md tells the truth: its programs run, its tables are those of the code, its flags and
 * commands exist.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import denoJson from "../deno.json" with { type: "json" };
import {
  makeReport,
  open,
  openBackend,
  openFolderSink,
  plan,
  recipeFromOptions,
  run,
} from "../mod.ts";
import { FORMATS } from "../src/formats/mod.ts";
import { type Option, recipeKey } from "../src/option.ts";
import { parseBatch } from "../src/terminal/batch_file.ts";
import { RECIPE_OPTIONS, RULE_OPTIONS } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";
import { PRESETS } from "../src/schemes/mod.ts";
import { COMMANDS } from "../src/terminal/commands/mod.ts";
import { EXIT } from "../src/terminal/faults.ts";
import { inFolder, names, sluice } from "./cli/host.ts";
import { blocks, README, tableRows } from "./readme_given.ts";

const ROOT = new URL("../", import.meta.url);
function optionRow({ name, default: usual, choices, help, placeholder, type }: Option): string[] {
  const value = type === "boolean"
    ? ""
    : ` ${(placeholder ?? choices?.join("\\|") ?? "value").toUpperCase()}`;
  return [
    `\`--${name}${choices && !placeholder ? ` ${choices.join("\\|")}` : value}\``,
    `\`${recipeKey({ name, type, help })}\``,
    usual === undefined ? "" : `\`${usual}\``,
    help.replaceAll("|", "\\|"),
  ];
}

Deno.test("the README's table of options is the rows of the code", () => {
  assert.deepEqual(
    tableRows("Flag", "Recipe key"),
    [...RULE_OPTIONS, ...RECIPE_OPTIONS].map(optionRow),
  );
});

Deno.test("the README's table of schemes says what formats and loaders say", () => {
  const expected = PRESETS.map(({ name, summary, format, scheme }) => {
    const loaders = FORMATS.find((candidate) => candidate.name === format)!
      .loaders({
        weights: [{
          name: "model.layers.0.mlp.up_proj.weight",
          shape: [1024, 1024],
          scheme: scheme({ modelDType: "bf16" }),
          linear: true,
        }],
        config: { model_type: "llama", architectures: ["LlamaForCausalLM"] },
        dtype: "bfloat16",
      });
    const opens = (loader: string) =>
      loaders.some(({ name, opens }) => opens === "yes" && (name === loader || name === "any"))
        ? "yes"
        : "no";
    return [
      `\`${name}\``,
      summary,
      format,
      ...["transformers", "vLLM", "SGLang", "TGI", "llama.cpp"].map(opens),
    ];
  });
  assert.deepEqual(tableRows("Scheme", "Values", "Format"), expected);
});

Deno.test("the README names every dependency of deno.json, and no other", () => {
  const named = tableRows("Dependency", "Version").map(([name, version]) => `${name}@${version}`);
  const imports = Object.values(denoJson.imports).map((specifier) => specifier.replace("npm:", ""));
  assert.deepEqual(named.map((text) => text.replaceAll("`", "")).sort(), imports.sort());
});

Deno.test("the README's tables of the record and of the report name every key, and no other", async () => {
  const folder = await Deno.makeTempDir({ prefix: "sluice_readme_" });
  try {
    await using source = await open("sample");
    await using backend = await openBackend("wasm");
    const work = plan(recipeFromOptions({ scheme: "NF4" }), source, { device: backend });
    await using sink = await openFolderSink(`${folder}/out`);
    const report = await run(work, { source, backend, sink });
    const files = await makeReport(work, report);
    const named = (rows: string[][]) =>
      rows.flatMap(([keys]) => [...keys!.matchAll(/`(\w+)`/g)].map(([, key]) => key!));
    const record = named(tableRows("Key", "Holds"));
    assert.deepEqual(record.toSorted(), Object.keys(report.record).slice(1).toSorted());
    const own = named(tableRows("Key", "Holds", { after: "## The report" }))
      .filter((key) => !record.includes(key) || key === "warnings");
    const all = new Set([...record, ...own, "version"]);
    assert.deepEqual(
      Object.keys(JSON.parse(files["report.json"])).filter((key) => !all.has(key)),
      [],
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the README's exit codes are those of the program", () => {
  const codes = tableRows("Code", "Meaning").map(([code]) => Number(code));
  assert.deepEqual(codes, Object.values(EXIT));
});

Deno.test("the README's recipe can be read", () => {
  const recipe = blocks("yaml").find((text) => /^rules:/m.test(text));
  const { rules } = parseRecipe(recipe!, "README.md");
  assert.ok(rules.length >= 2);
});

Deno.test("the README's recipe of several outputs makes them of the sample model", async () => {
  const recipe = blocks("yaml").find((text) => /^outputs:/m.test(text))!;
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/outputs.yaml`, recipe);
    const words = "--evaluate --device wasm --num-samples 2 --seq-len 64".split(" ");
    const files = ["--recipe", `${folder}/outputs.yaml`, "--output", `${folder}/made`];
    const { code, out, err } = await sluice(["quantize", "sample", ...files, ...words]);
    assert.equal(code, 0, err);
    assert.deepEqual(names(`${folder}/made`), ["nf4", "w4", "w8a8-rtn"]);
    for (const name of names(`${folder}/made`)) {
      assert.match(out, new RegExp(`made/${name} .*\\d MB +\\d\\.\\d+ +\\d+\\.\\d+$`, "m"));
    }
  });
});

Deno.test("the README's batch can be read", () => {
  const batch = blocks("yaml").find((text) => /^models:/m.test(text));
  const { jobs } = parseBatch(batch!, "README.md");
  assert.deepEqual(jobs.map(({ name }) => name), ["name-w4", "name-nf4", "mine-w4", "mine-nf4"]);
});

Deno.test("the README's command lines use commands and flags that exist", async () => {
  const lines = blocks("sh").join("").replaceAll("\\\n", " ").split("\n")
    .map((line) => /cli\.ts (\w+)(.*)$/.exec(line)).filter((match) => match !== null);
  assert.ok(lines.length >= 6);
  for (const [line, name, rest] of lines) {
    const command = await COMMANDS.find((candidate) => candidate.name === name)?.load();
    assert.ok(command, line);
    for (const [, flag] of rest!.matchAll(/ --([a-z-]+)/g)) {
      assert.ok(command.flags.some(({ name }) => name === flag), `${line}: --${flag}`);
    }
  }
  const tasks = [...README.matchAll(/deno@[\d.]+ task (\S+?)[`\s]/g)].map(([, task]) => task!);
  assert.deepEqual(tasks.slice(0, 2), ["demo", "test"]);
  for (const task of tasks) assert.ok(task in denoJson.tasks, task);
});

/** Run a program of the README, from a folder of its own. */
async function runProgram(
  text: string,
  folder: string,
  words: string[],
): Promise<{ readonly out: string; readonly err: string }> {
  const program = `${folder}/program.ts`;
  const modules = text.replaceAll('"./mod.ts"', JSON.stringify(new URL("mod.ts", ROOT).href));
  assert.notEqual(modules, text);
  await Deno.writeTextFile(program, modules);
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--quiet",
      "--check",
      `--config=${fileURLToPath(new URL("deno.json", ROOT))}`,
      program,
      ...words,
    ],
    cwd: folder,
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assert.ok(success, err);
  return { out: out!, err: err! };
}

Deno.test("the README's batch script type-checks, quantizes several models, and goes on where some are there", () =>
  inFolder(async (folder) => {
    const [script] = blocks("ts");
    assert.ok(script !== undefined);
    const copy = `${folder}/copy`;
    await Deno.mkdir(copy);
    for (const name of names(fileURLToPath(new URL("sample/model/", ROOT)))) {
      await Deno.copyFile(new URL(`sample/model/${name}`, ROOT), `${copy}/${name}`);
    }
    const { out } = await runProgram(script, folder, ["sample", copy]);
    const lines = out.trimEnd().split("\n");
    assert.equal(lines.length, 4, out);
    for (const line of lines) {
      assert.match(
        line,
        /^out\/(sample|copy)-(int4|nf4): \d\.\d{3} bits per weight, KL 0\.\d{4}, perplexity \d+\.\d\d → \d+\.\d\d$/,
      );
    }
    const outputs = ["copy-int4", "copy-nf4", "sample-int4", "sample-nf4"];
    assert.deepEqual(names(`${folder}/out`), outputs);
    // Once more, when one of them is missing: it is made, and of each other one sentence says why
    // not.
    await Deno.remove(`${folder}/out/sample-nf4`, { recursive: true });
    const again = await runProgram(script, folder, ["sample", copy]);
    assert.match(again.out, /^out\/sample-nf4: [^\n]+\n$/);
    const said = again.err.split("\n").filter((line) => line.startsWith("Cannot "));
    assert.equal(said.length, 3, again.err);
    for (const line of said) {
      assert.match(line, /^Cannot write to "out\/[\w-]+": the folder exists and is not empty\./);
      assert.match(line, /or say `overwrite`\.$/);
    }
    assert.deepEqual(names(`${folder}/out`), outputs);
  }));

Deno.test("the README's least permissions are enough for what it says", () =>
  inFolder(async (folder) => {
    const lines = blocks("sh").join("").replaceAll("\\\n", " ").split("\n")
      .filter((line) => line.includes("--no-prompt"));
    assert.equal(lines.length, 3);
    await Deno.mkdir(`${folder}/models/original`, { recursive: true });
    for (const name of names(fileURLToPath(new URL("sample/model/", ROOT)))) {
      await Deno.copyFile(
        new URL(`sample/model/${name}`, ROOT),
        `${folder}/models/original/${name}`,
      );
    }
    await Deno.writeTextFile(
      `${folder}/text.txt`,
      (await Deno.readTextFile(new URL("sample/corpus/validation.txt", ROOT))).slice(0, 30_000),
    );
    for (const line of lines) {
      const [program, ...words] = line.trim().split(/\s+/);
      assert.equal(program, "deno");
      const args = words.map((word) =>
        word === "cli.ts" ? fileURLToPath(new URL("cli.ts", ROOT)) : word
      );
      const { success, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: folder })
        .output();
      assert.ok(success, `${line}\n${new TextDecoder().decode(stderr)}`);
    }
  }));

Deno.test("the README, the CHANGELOG and the LICENSE agree with deno.json", () => {
  const changes = Deno.readTextFileSync(new URL("CHANGELOG.md", ROOT));
  assert.match(changes, new RegExp(`^## ${denoJson.version.replaceAll(".", "\\.")}\\b`, "m"));
  const license = Deno.readTextFileSync(new URL("LICENSE", ROOT));
  assert.match(license, /Apache License\s+Version 2\.0, January 2004/);
  assert.match(license, /END OF TERMS AND CONDITIONS/);
  assert.equal(denoJson.license, "Apache-2.0");
});
