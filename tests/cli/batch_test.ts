/** `sluice batch`: many quantizations, of which some fail, are done before, or are not reached. */
import assert from "node:assert/strict";
import { parseBatch } from "../../src/terminal/batch_file.ts";
import { RequestError } from "../../src/errors.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, names, sluice } from "./host.ts";

async function withBatch(
  test: (given: { readonly folder: string; readonly file: string }) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), {
      config: TINY_CONFIG,
      change: livelyNorms("bf16"),
    });
    await Deno.rename(model, `${folder}/tiny`);
    const file = `${folder}/batch.yaml`;
    await Deno.writeTextFile(
      file,
      `output: ${folder}/out
models: [${folder}/tiny, { model: ${folder}/none, name: missing }]
recipes:
  w8: { scheme: W8A16, group_size: 32 }
  nf4: { scheme: NF4 }
  own: { scheme: W4A16, group_size: 32, method: rtn, ignore: ["*q_proj", "*k_proj", "*v_proj"] }
flags: { device: wasm, threads: 1 }
`,
    );
    await test({ folder, file });
  });
}

Deno.test("a batch does every model by every recipe, goes on after a failure, and ends with a table", async () => {
  await withBatch(async ({ folder, file }) => {
    const { code, out, err } = await sluice(["batch", file]);
    assert.equal(code, 1, err);
    assert.deepEqual(names(`${folder}/out`), ["batch.json", "tiny-nf4", "tiny-own", "tiny-w8"]);
    const [shown, reasons] = out.split("\n\n") as [string, string];
    const rows = shown.split("\n").map((line) => line.split(/  +/));
    assert.deepEqual(rows[0], "JOB MODEL ENDED BITS SIZE KL PERPLEXITY TIME".split(" "));
    assert.deepEqual(
      rows.slice(1).map(([job, model, ended]) => [job, model!.split("/").at(-1), ended]),
      [
        ...["w8", "nf4", "own"].map((recipe) => [`tiny-${recipe}`, "tiny", "done"]),
        ...["w8", "nf4", "own"].map((recipe) => [`missing-${recipe}`, "none", "failed"]),
      ],
    );
    for (const row of rows.slice(1)) assert.match(row.at(-1)!, /^[\d.]+ m?s$/);
    const told = reasons.trim().split("\n").map((line) => line.split(": ")[0]);
    assert.deepEqual(told, ["w8", "nf4", "own"].map((recipe) => `missing-${recipe}`));
    assert.match(reasons, /^missing-w8: .*no such file or folder/);
    assert.match(err, /2 of 6: .*tiny, nf4/);
    assert.match(err, /no such file or folder/);
    assert.match(err, /3 jobs of 6 failed; the same command tries them again\.\n$/);

    const before = await Deno.stat(`${folder}/out/tiny-w8/model.safetensors`);
    const { mtime: written } = await Deno.stat(`${folder}/tiny/model.safetensors`);
    const again = await sluice(["batch", file, "--json"]);
    assert.equal(again.code, 1);
    const lines = again.out.trim().split("\n").map((line) => JSON.parse(line));
    const { jobs } = lines.find(({ type }) => type === "result");
    assert.deepEqual(jobs.map(({ state }: { state: string }) => state), [
      ...new Array(3).fill("done before"),
      ...new Array(3).fill("failed"),
    ]);
    assert.ok(jobs[0].bits_per_weight > 8 && jobs[0].bytes > 0);
    const after = await Deno.stat(`${folder}/out/tiny-w8/model.safetensors`);
    assert.deepEqual(after.mtime, before.mtime, "it was made again");

    // Whether files that were changed are another model nobody can tell but who has done that.
    const weights = `${folder}/tiny/model.safetensors`;
    await Deno.utime(weights, 1, 1);
    const replaced = await sluice(["batch", file]);
    assert.equal(replaced.err.match(/warning: tiny-.* were changed since\. If/g)?.length, 3);
    await Deno.remove(`${folder}/out/tiny-nf4`, { recursive: true });
    const anew = await sluice(["batch", file]);
    assert.match(anew.out, /tiny-w8 .* done before [^]*tiny-nf4 .* done {2}/);
    assert.equal(anew.err.match(/were changed since/g)?.length, 2);
    await Deno.utime(weights, before.mtime!, written!);
    await Deno.rename(`${folder}/tiny`, `${folder}/elsewhere`);
    const gone = await sluice(["batch", file]);
    assert.equal(gone.out.match(/tiny-.* done before /g)?.length, 3);
    assert.doesNotMatch(gone.err, /were changed since/);
    await Deno.rename(`${folder}/elsewhere`, `${folder}/tiny`);

    // Other flags are another job, whose folder is taken.
    const text = await Deno.readTextFile(file);
    await Deno.writeTextFile(file, text.replace("scheme: NF4", "scheme: FP4"));
    const changed = await sluice(["batch", file]);
    assert.match(changed.err, /tiny-nf4.*--overwrite/);
  });
});

Deno.test("a batch that is stopped keeps what is done, and goes on with the rest", async () => {
  await withBatch(async ({ folder, file }) => {
    const stop = new AbortController();
    const { Interrupted } = await import("../../src/terminal/faults.ts");
    const err = keeper({
      onWrite: (text) => {
        if (/2 of 6/.test(text)) stop.abort(new Interrupted());
      },
    });
    const { code, out } = await sluice(["batch", file], { err, signal: stop.signal });
    assert.equal(code, 75);
    assert.match(err.text(), /Stopped\. What is done stays; the same command goes on\./);
    assert.match(out, /tiny-w8 .* done /);
    assert.equal(out.match(/not begun/g)?.length, 5);
    assert.deepEqual(names(`${folder}/out`), ["batch.json", "tiny-w8"]);
    const rest = await sluice(["batch", file]);
    assert.match(rest.out, /tiny-w8 .* done before /);
    assert.match(rest.out, /tiny-nf4 .* done /);
  });
});

Deno.test("a batch that was killed before it noted a job does not do it again, and not another's", async () => {
  await withBatch(async ({ folder, file }) => {
    const text = await Deno.readTextFile(file);
    await Deno.writeTextFile(file, text.replace(/, \{ model: .*missing \}/, ""));
    assert.equal((await sluice(["batch", file])).code, 0);
    const state = `${folder}/out/batch.json`;
    const { jobs, begun } = JSON.parse(await Deno.readTextFile(state));
    assert.deepEqual([Object.keys(jobs).length, begun], [3, {}]);
    const { "tiny-nf4": nf4, "tiny-own": own, ...rest } = jobs;
    // As the process leaves it that is killed behind the last rename of a job.
    const killed = { version: 1, jobs: rest, begun: { "tiny-nf4": nf4, "tiny-own": `0${own}` } };
    await Deno.writeTextFile(state, JSON.stringify(killed));
    const before = await Deno.stat(`${folder}/out/tiny-nf4/model.safetensors`);
    const { code, out, err } = await sluice(["batch", file]);
    assert.equal(code, 1, err);
    assert.match(out, /tiny-w8 .* done before [^]*tiny-nf4 .* done before [^]*tiny-own .* failed /);
    assert.match(out, /^tiny-own: .*the folder exists and is not empty/m);
    const after = await Deno.stat(`${folder}/out/tiny-nf4/model.safetensors`);
    assert.deepEqual(after.mtime, before.mtime, "it was made again");
    const noted = JSON.parse(await Deno.readTextFile(state));
    assert.deepEqual(noted, { version: 1, jobs: { ...rest, "tiny-nf4": nf4 }, begun: {} });
    assert.deepEqual(names(`${folder}/out`).length, 4);
  });
});

Deno.test("in a batch a job that was stopped is nothing that the others warn of", async () => {
  await withBatch(async ({ folder, file }) => {
    const text = await Deno.readTextFile(file);
    await Deno.writeTextFile(file, text.replace(`{ model: ${folder}/none, name: missing }`, "x"));
    {
      await using sink = await openFolderSink(`${folder}/out/x-w8`, { resume: true });
      for (const unit of [1, 2]) await sink.resumption!.append({ unit });
    }
    assert.deepEqual(names(`${folder}/out`), ["x-w8.sluice-partial"]);
    const { err } = await sluice(["batch", file]);
    assert.match(err, /6 of 6/);
    assert.doesNotMatch(err, /A run that was stopped has left/);
  });
});

Deno.test("a batch that is wrong is refused before anything begins", async () => {
  await withBatch(async ({ folder, file }) => {
    const text = await Deno.readTextFile(file);
    for (
      const [wrong, why] of [
        [text.replace("scheme: NF4", "scheme: NF5"), /"tiny-nf4" of the batch: .*NF5/],
        [text.replace("threads: 1", "treads: 1"), /"tiny-w8" of the batch: .*treads/],
        [`${text}speed: 9\n`, /it has the key "speed", and may have output, models/],
        [text.replace("name: missing", "name: tiny"), /two of its jobs are called "tiny-w8"/],
        [text.replace("name: missing", "name: ../x"), /"\.\.\/x-w8" is no name of a folder/],
        [text.replace("device: wasm", "output: x"), /`flags` has "output", which is the batch's/],
        [
          `${text}upload: me/{model}\n`,
          /`upload` names "me\/tiny" for two jobs; give it \{model\}/,
        ],
        ["models: [", /it is neither YAML nor JSON/],
        ["a", /it holds no keys with values/],
      ] as const
    ) {
      await Deno.writeTextFile(file, wrong);
      const { code, err } = await sluice(["batch", file]);
      assert.equal(code, 1, err);
      assert.match(err, why);
      assert.deepEqual(names(folder).filter((name) => name === "out"), []);
    }
  });
});

Deno.test("a batch whose output would lie within a file is refused with a sentence", async () => {
  await withBatch(async ({ folder, file }) => {
    const text = await Deno.readTextFile(file);
    await Deno.writeTextFile(file, text.replace(`${folder}/out`, `${file}/out`));
    const { code, err } = await sluice(["batch", file]);
    assert.equal(code, 5, err);
    assert.match(
      err,
      /^sluice: Cannot read ".*batch\.yaml.out.batch\.json": the system says .*\.\n$/,
    );
  });
});

Deno.test("parseBatch() makes words of flags, and names of models and revisions", () => {
  const { jobs } = parseBatch(
    `output: o
models: [org/name@v1]
recipes: { a: { scheme: W4A16, propagate: false, ignore: [x, y] } }
flags: { group_size: 64, evaluate: true }
upload: me/{model}-{recipe}
`,
    "f",
  );
  assert.deepEqual(jobs, [{
    model: "org/name@v1",
    recipe: "a",
    name: "name-a",
    words: [
      ...["org/name@v1", "--scheme", "W4A16", "--no-propagate", "--ignore", "x", "--ignore", "y"],
      ...["--group-size", "64", "--evaluate", "--upload-repo", "me/name-a"],
    ],
    target: "me/name-a",
  }]);
  assert.throws(() => parseBatch("output: o\nmodels: []\nrecipes: { a: {} }", "f"), RequestError);
});
