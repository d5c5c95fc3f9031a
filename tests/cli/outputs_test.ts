/** `sluice quantize` and `plan` by a recipe of several outputs, and a batch with one. */
import assert from "node:assert/strict";
import { Interrupted } from "../../src/terminal/faults.ts";
import { bytesOf } from "../run_given.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, names, sluice } from "./host.ts";

const RECIPE = `method: rtn
outputs:
  - { output: nf4, scheme: NF4 }
  - { output: w4, scheme: W4A16, method: gptq, group_size: 64 }
  - { scheme: W8A8 }
`;

/** Few windows of the sample's text on the CPU. */
const FEW = "--device wasm --threads 1 --num-samples 2 --seq-len 64".split(" ");

async function withRecipe(
  recipe: string,
  test: (given: { readonly folder: string; readonly file: string }) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const file = `${folder}/outputs.yaml`;
    await Deno.writeTextFile(file, recipe);
    await test({ folder, file });
  });
}

Deno.test("quantize makes every output of a recipe, those of their own commands, and ends with a table", async () => {
  await withRecipe(RECIPE, async ({ folder, file }) => {
    const words = ["sample", "--recipe", file, "--evaluate", ...FEW, "--output", `${folder}/made`];
    const { code, out, err } = await sluice(["quantize", ...words]);
    assert.equal(code, 0, err);
    assert.deepEqual(names(`${folder}/made`), ["nf4", "w4", "w8a8-rtn"]);
    const rows = out.split("\n").map((line) => line.split(/  +/));
    assert.deepEqual(rows[0], "OUTPUT SCHEME METHOD BITS SIZE KL PERPLEXITY".split(" "));
    assert.deepEqual(
      rows.slice(1, 4).map(([path, , method]) => [path!.slice(folder.length + 6), method]),
      [["nf4", "rtn"], ["w4", "gptq"], ["w8a8-rtn", "rtn"]],
    );
    assert.match(err, /3 outputs by one read, 8\.13 MB to /);
    assert.match(err, /38 tensors, 8\.13 MB, for 3 outputs, on /);
    const alone: Readonly<Record<string, string>> = {
      "nf4": "--scheme NF4 --method rtn",
      "w4": "--scheme W4A16 --method gptq --group-size 64",
      "w8a8-rtn": "--scheme W8A8 --method rtn",
    };
    for (const [name, flags] of Object.entries(alone)) {
      const to = `${folder}/alone-${name}`;
      const few = name === "w4" ? FEW : FEW.slice(0, 4);
      const one = await sluice(["quantize", "sample", ...flags.split(" "), ...few, "--output", to]);
      assert.equal(one.code, 0, one.err);
      assert.deepEqual(await bytesOf(`${folder}/made/${name}`), await bytesOf(to), name);
    }
  });
});

Deno.test("quantize --json tells which output an event is of, and all that came of each", async () => {
  await withRecipe(RECIPE, async ({ folder, file }) => {
    const words = ["sample", "--recipe", file, ...FEW, "--json", "--output", `${folder}/made`];
    const { code, out, err } = await sluice(["quantize", ...words]);
    assert.equal(code, 0, err);
    const lines = out.trim().split("\n").map((line) => JSON.parse(line));
    const quantized = lines.filter(({ type }) => type === "quantized");
    assert.deepEqual(
      new Set(quantized.map(({ output }) => output)),
      new Set(["nf4", "w4", "w8a8-rtn"]),
    );
    const [start] = lines.filter(({ type }) => type === "start");
    assert.deepEqual([start.outputs, start.bytes < 1e7], [3, true]);
    const result = lines.at(-1);
    assert.equal(result.type, "result");
    assert.deepEqual(
      result.outputs.map((one: { output: string; methods: { name: string }[] }) => [
        one.output.slice(folder.length + 6),
        one.methods[0]!.name,
      ]),
      [["nf4", "rtn"], ["w4", "gptq"], ["w8a8-rtn", "rtn"]],
    );
    assert.ok(result.planned_memory.peak > 0 && result.seconds > 0);
  });
});

Deno.test("quantize makes what is missing of several outputs, and leaves the others as they are", async () => {
  await withRecipe(
    "outputs: [{ output: a, scheme: NF4 }, { output: b, scheme: FP4 }]",
    async (given) => {
      const { folder, file } = given;
      const make = () =>
        sluice(["quantize", "sample", "--recipe", file, ...FEW.slice(0, 4), "--output", folder]);
      assert.equal((await make()).code, 0);
      const [a, b] = [await bytesOf(`${folder}/a`), await bytesOf(`${folder}/b`)];
      const whole = await make();
      assert.match(whole.err, /Cannot write to ".*a": the folder exists and is not empty/);
      await Deno.remove(`${folder}/b`, { recursive: true });
      const { code, err } = await make();
      assert.equal(code, 0, err);
      assert.match(err, /sluice: ".*a" is there already\n/);
      assert.deepEqual([await bytesOf(`${folder}/a`), await bytesOf(`${folder}/b`)], [a, b]);
      await Deno.remove(`${folder}/b`, { recursive: true });
      const text = await Deno.readTextFile(file);
      await Deno.writeTextFile(file, text.replace("NF4", "W8A16, method: rtn"));
      assert.match((await make()).err, /another than this command makes: its recipe differs/);
    },
  );
});

Deno.test("plan and --dry-run show every output, and what all take together", async () => {
  await withRecipe(RECIPE, async ({ folder, file }) => {
    const planned = await sluice(["plan", "sample", "--recipe", file, ...FEW]);
    assert.equal(planned.code, 0, planned.err);
    assert.deepEqual(
      planned.out.match(/^OUTPUT \S+$/gm),
      ["nf4", "w4", "w8a8-rtn"].map((name) => `OUTPUT ${name}`),
    );
    assert.equal(planned.out.match(/^memory /gm)?.length, 1);
    assert.match(planned.out, /^size of all +\d.*MB, from 8\.13 MB, which is read once$/m);
    const words = ["sample", "--recipe", file, ...FEW, "--dry-run", "--json", "--output"];
    const { code, out, err } = await sluice(["quantize", ...words, `${folder}/made`]);
    assert.equal(code, 0, err);
    const { outputs, total_bytes, planned_memory } = JSON.parse(out);
    assert.deepEqual(outputs.map(({ output }: { output: string }) => output), [
      ...["nf4", "w4", "w8a8-rtn"].map((name) => `${folder}/made/${name}`),
    ]);
    const bytes = outputs.map((one: { total_bytes: number }) => one.total_bytes);
    assert.equal(total_bytes, bytes.reduce((a: number, b: number) => a + b));
    const peaks = outputs.map((one: { planned_memory: { peak: number } }) =>
      one.planned_memory.peak
    );
    assert.equal(planned_memory.peak, Math.max(...peaks));
    assert.deepEqual(names(folder), ["outputs.yaml"]);
  });
});

for (
  const [what, recipe, flags, message] of [
    [
      "one of which cannot be made",
      "outputs: [{ scheme: NF4 }, { output: odd, scheme: W4A16, method: rtn, group_size: 7 }]",
      [],
      /Cannot make the output "odd"\. .*group/,
    ],
    [
      "in one folder",
      "outputs: [{ output: a, scheme: NF4 }, { output: ./a, scheme: W8A8 }]",
      [],
      /Cannot make the outputs "a" and "\.\/a": they are one folder\. Give each .* by the key "output"/,
    ],
    [
      "in one another",
      "outputs: [{ output: a/b, scheme: NF4 }, { output: a, scheme: W8A8 }]",
      [],
      /Cannot make the outputs "a\/b" and "a": one is in the other/,
    ],
    [
      "with a flag about one",
      "outputs: [{ scheme: NF4 }, { scheme: W8A8 }]",
      ["--report", "r"],
      /Cannot use --report with a recipe of several outputs/,
    ],
    [
      "with a scheme by flags",
      "outputs: [{ scheme: NF4 }, { scheme: W8A8 }]",
      ["--scheme", "NF4"],
      /Cannot use --scheme and --recipe together/,
    ],
    [
      "of which one is not stored",
      "outputs: [{ scheme: NF4 }, { scheme: W8A8, format: none }]",
      [],
      /Cannot make the output "w8a8" with format none/,
    ],
  ] as const
) {
  Deno.test(`quantize refuses outputs ${what}, and writes nothing`, async () => {
    await withRecipe(recipe, async ({ folder, file }) => {
      const words = ["sample", "--recipe", file, ...flags, "--output", `${folder}/made`];
      const { code, err } = await sluice(["quantize", ...words]);
      assert.equal(code, 1, err);
      assert.match(err, message);
      assert.deepEqual(names(folder), ["outputs.yaml"]);
    });
  });
}

Deno.test("machines do not share the plan of a recipe of several outputs", async () => {
  await withRecipe(RECIPE, async ({ folder, file }) => {
    const work = `${folder}/work`;
    const { code, err } = await sluice(["plan", "sample", "--recipe", file, "--work-dir", work]);
    assert.equal(code, 1);
    assert.match(
      err,
      /--work-dir with a recipe of several outputs: machines can share the plan of one output only\. /,
    );
    assert.deepEqual(names(folder), ["outputs.yaml"]);
  });
});

Deno.test("outputs whose run is stopped go on by the same command, to the same bytes", async () => {
  await withRecipe(RECIPE, async ({ folder, file }) => {
    const run = (to: string) => ["quantize", "sample", "--recipe", file, ...FEW, "--output", to];
    const stop = new AbortController();
    const err = keeper({
      onWrite(text) {
        if (text.includes("model.layers.1")) stop.abort(new Interrupted());
      },
    });
    const stopped = await sluice([...run(`${folder}/made`)], { signal: stop.signal, err });
    assert.equal(stopped.code, 75, err.text());
    assert.match(err.text(), /Stopped\. The same command goes on after \d of \d units\./);
    assert.deepEqual(
      names(`${folder}/made`),
      ["nf4", "w4", "w8a8-rtn"].map((name) => `${name}.sluice-partial`),
    );
    const again = await sluice(run(`${folder}/made`));
    assert.equal(again.code, 0, again.err);
    assert.match(again.err, /going on after \d of \d units, which an earlier run did/);
    const whole = await sluice(run(`${folder}/whole`));
    assert.equal(whole.code, 0, whole.err);
    for (const name of names(`${folder}/whole`)) {
      assert.deepEqual(
        await bytesOf(`${folder}/made/${name}`),
        await bytesOf(`${folder}/whole/${name}`),
      );
    }
  });
});

Deno.test("a batch has a job of several outputs, each a row of its table, and does it once", async () => {
  const recipe = "outputs: [{ scheme: NF4 }, { scheme: W8A8 }]";
  await withRecipe(recipe, async ({ folder, file }) => {
    const model = await makeCheckpoint(tinyTensors(), {
      config: TINY_CONFIG,
      change: livelyNorms("bf16"),
    });
    await Deno.rename(model, `${folder}/tiny`);
    const batch = `${folder}/batch.yaml`;
    await Deno.writeTextFile(
      batch,
      `output: ${folder}/out
models: [${folder}/tiny]
recipes: { both: { recipe: ${file} }, fp4: { scheme: FP4 } }
flags: { device: wasm, threads: 1 }
`,
    );
    for (const ended of ["done", "done before"]) {
      const { code, out, err } = await sluice(["batch", batch]);
      assert.equal(code, 0, err);
      const rows = out.trim().split("\n").slice(1).map((line) => line.split(/  +/));
      assert.deepEqual(rows.map(([job, , state]) => [job, state]), [
        ["tiny-both/nf4", ended],
        ["tiny-both/w8a8", ended],
        ["tiny-fp4", ended],
      ]);
    }
    assert.deepEqual(names(`${folder}/out/tiny-both`), ["nf4", "w8a8"]);
  });
});
