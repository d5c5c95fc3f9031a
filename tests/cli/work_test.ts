/**
 * Machines that share a plan, as processes: one is killed, one comes late, and what is merged is what
 * one machine writes; other plans, and words that make no sense, are refused.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { bytesOf } from "../run_given.ts";
import { parseAllDocuments } from "yaml";
import { inFolder, sluice } from "./host.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const FLAGS = [
  ...["--group-size", "64", "--num-samples", "4", "--seq-len", "64"],
  ...["--calibrate-on", "float", "--device", "wasm", "--threads", "1"],
];

/** A worker of its own process, killed once it has done so many units. */
async function killedAfter(units: number, folder: string, index: string): Promise<void> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--quiet",
      CLI,
      "work",
      `${folder}/job`,
      "--worker-index",
      index,
      "--quiet",
    ],
    stdout: "null",
    stderr: "null",
  }).spawn();
  const done = () =>
    Deno.readDirSync(`${folder}/job/units`).filter((e) => e.name.endsWith(".json"));
  while (done().toArray().length < units) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill("SIGKILL");
  await child.status;
}

Deno.test("a worker that is killed and one that is late make with others what one machine makes", () =>
  inFolder(async (folder) => {
    const [job, out, alone] = ["job", "out", "alone"].map((name) => `${folder}/${name}`) as [
      string,
      string,
      string,
    ];
    const planned = await sluice(["plan", "sample", ...FLAGS, "--work-dir", job]);
    assert.equal(planned.code, 0, planned.err);
    assert.match(planned.err, /6 units wait in ".*job" for workers/);
    await killedAfter(1, folder, "0/2");
    const early = await sluice(["merge", job, "--output", out]);
    assert.equal(early.code, 1, early.err);
    assert.match(early.err, /units are not done \(.*\)\. Have a worker do them: sluice work/);
    const late = await sluice(["work", job, "--worker-index", "1/2", "--json", "--threads", "2"]);
    assert.equal(late.code, 0, late.err);
    const { did, left, of } = JSON.parse(late.out.trim().split("\n").at(-1)!);
    assert.ok(did.length >= 1 && did.length < of);
    assert.deepEqual(left, []);
    const merged = await sluice(["merge", job, "--output", out]);
    assert.equal(merged.code, 0, merged.err);
    const whole = await sluice(["quantize", "sample", ...FLAGS, "--output", alone]);
    assert.equal(whole.code, 0, whole.err);
    assert.deepEqual(await bytesOf(out), await bytesOf(alone));

    const refusals: [words: string[], says: RegExp][] = [
      [["work", job, "--worker-index", "2/2"], /give the worker's number, from 0, and how many/],
      [["work", `${folder}/none`], /there is no job\.json/],
      [["merge", job], /say where the result goes/],
      [["plan", "sample", "--work-dir", `${folder}/a`], /Give --calibration-shards/],
      [
        ["plan", "sample", ...FLAGS, "--evaluate", "--work-dir", `${folder}/a`],
        /Leave out --evaluate/,
      ],
      [
        ["plan", "sample", ...FLAGS, "--target-bpw", "4.5", "--work-dir", `${folder}/a`],
        /--target-bpw with --work-dir: .*--save-recipe/,
      ],
      [["plan", "sample", "--scheme", "NF4", "--work-dir", job], /another job is in it/],
    ];
    for (const [words, says] of refusals) {
      const { code, err } = await sluice(words);
      assert.equal(code, 1, `${words.join(" ")}: ${err}`);
      assert.match(err, says);
    }
    const text = await Deno.readTextFile(`${job}/job.json`);
    await Deno.writeTextFile(`${job}/job.json`, text.replace('"--seq-len=64"', '"--seq-len=32"'));
    const other = await sluice(["work", job]);
    assert.equal(other.code, 1);
    assert.match(
      other.err,
      /the same plan cannot be made here: .*calibration\.seq_len was 64 and is 32/,
    );
  }));

Deno.test("a job keeps the recipe that it was planned by, whatever becomes of the file", () =>
  inFolder(async (folder) => {
    const [recipe, job, out, alone] = ["recipe.yaml", "job", "out", "alone"].map((name) =>
      `${folder}/${name}`
    ) as [string, string, string, string];
    await Deno.writeTextFile(
      recipe,
      "scheme: NF4\nrules:\n  - {match: '*down_proj', scheme: none}\n",
    );
    const device = ["--device", "wasm", "--threads", "1"];
    const steps = [
      ["quantize", "sample", "--recipe", recipe, ...device, "--output", alone],
      ["plan", "sample", "--recipe", recipe, ...device, "--work-dir", job],
      ["work", job],
      ["merge", job, "--output", out],
    ];
    for (const words of steps) {
      const { code, err } = await sluice(words);
      assert.equal(code, 0, `${words.join(" ")}: ${err}`);
      if (words[0] === "plan") await Deno.writeTextFile(recipe, "scheme: W8A16\n");
    }
    assert.deepEqual(await bytesOf(out), await bytesOf(alone));
  }));

Deno.test("a job file has an index for each worker, and no more workers than there are units", () =>
  inFolder(async (folder) => {
    const job = `${folder}/a job`;
    await sluice(["plan", "sample", "--scheme", "NF4", "--device", "wasm", "--work-dir", job]);
    const print = async (...words: string[]) => {
      const { code, out, err } = await sluice(["cluster", ...words]);
      assert.equal(code, 0, err);
      return out;
    };
    for (const engine of ["slurm", "hf-jobs"]) {
      const text = await print(engine, job, "--workers", "3", "--output", `${folder}/it's`);
      const path = `${folder}/${engine}.sh`;
      await Deno.writeTextFile(path, text);
      const checked = await new Deno.Command("bash", { args: ["-n", path] }).output();
      assert.equal(checked.code, 0, new TextDecoder().decode(checked.stderr));
      assert.match(text, /work '.*a job' --worker-index|work .*a job.* --worker-index/);
    }
    assert.match(await print("slurm", job, "--workers", "40"), /#SBATCH --array=0-5\n/);
    const kubernetes = await print("kubernetes", job, "--workers", "3");
    // kubectl waits for half a minute unless told.
    assert.match(kubernetes, /^# .*kubectl wait --for=condition=complete --timeout=-1s \\$/m);
    const documents = parseAllDocuments(kubernetes);
    const [work, merge] = documents.map((document) => document.toJS());
    const { spec } = work;
    assert.equal(work.apiVersion, "batch/v1");
    assert.deepEqual([spec.completionMode, spec.completions, spec.parallelism], ["Indexed", 3, 3]);
    const [{ command, name, volumeMounts: [{ mountPath }] }] = spec.template.spec.containers;
    assert.match(
      command[2],
      /^exec deno run .* work '.*a job' --worker-index "\$JOB_COMPLETION_INDEX\/3"$/,
    );
    assert.equal(mountPath, folder);
    assert.equal(spec.podFailurePolicy.rules[1].onExitCodes.containerName, name);
    assert.equal(spec.template.spec.restartPolicy, "Never");
    assert.equal(merge.spec.suspend, true);
    const { code, err } = await sluice(["cluster", "ray", job]);
    assert.equal(code, 1);
    assert.match(err, /there are slurm, kubernetes, hf-jobs/);
  }));
