/**
 * Machines that share a repository of the Hub alone, as processes, the Hub as one of its own: one
 * is killed, one comes late, and what is merged is what one machine writes; and what commands
 * say of such a place.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { parseAllDocuments } from "yaml";
import { type FakeHub, startFakeHub, TOKEN } from "../fake_hub/mod.ts";
import { bytesOf } from "../run_given.ts";
import { inFolder, type Outcome, sluice } from "./host.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const HUB = fileURLToPath(new URL("../fake_hub/main.ts", import.meta.url));
const PLACE = "hf://me/job";
const FLAGS = [
  ...["--group-size", "64", "--num-samples", "4", "--seq-len", "64"],
  ...["--calibrate-on", "float", "--device", "wasm", "--threads", "1"],
];

/** The Hub as a process, and the variables by which others find it. */
async function hubProcess(folder: string) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", HUB, folder],
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let text = "";
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  while (!/HF_TOKEN=.*\n/.test(text)) text += (await reader.read()).value;
  const env: Record<string, string> = {
    ...Object.fromEntries(
      [...text.matchAll(/export (\w+)=(.*)/g)].map(([, key, of]) => [key!, of!]),
    ),
    HF_HUB_OFFLINE: "0",
    HF_HOME: folder,
  };
  return {
    env,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await reader.cancel();
      await child.status;
    },
  };
}

/** Run a command as a process. */
function start(env: Record<string, string>, words: readonly string[]) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", CLI, ...words],
    env,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const ended = child.output().then(({ code, stdout, stderr }) => {
    const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)) as [
      string,
      string,
    ];
    assert.ok(!`${out}${err}`.includes(TOKEN), "the token is in a log");
    return { code, out, err };
  });
  return { child, ended };
}

/** Files of the job, as the Hub lists them. */
async function unitsDone(endpoint: string): Promise<number> {
  const answer = await fetch(`${endpoint}/api/models/me/job/tree/main?recursive=true`, {
    headers: { authorization: `Bearer ${TOKEN}` },
  });
  const files = await answer.json() as { path: string }[];
  return files.filter(({ path }) => /^units\/.*\.json$/.test(path)).length;
}

Deno.test("four processes of which one is killed and one is late make what one machine makes", () =>
  inFolder(async (folder) => {
    await Deno.mkdir(`${folder}/hub`);
    await using hub = await hubProcess(`${folder}/hub`);
    const { env } = hub;
    const does = (...words: string[]) => start(env, words).ended;
    const planned = await does("plan", "sample", ...FLAGS, "--work-dir", PLACE);
    assert.equal(planned.code, 0, planned.err);
    assert.match(planned.err, /6 units wait in "hf:\/\/me\/job" for workers: sluice work hf:/);
    assert.match(planned.err, /temporary folder, which holds [\d.]+ [kM]B of them at most/);
    const works = (index: number) => start(env, ["work", PLACE, "--worker-index", `${index}/4`]);
    const killed = works(0);
    while (await unitsDone(env.HF_ENDPOINT!) < 1) {
      const early = await Promise.race([killed.ended, new Promise((r) => setTimeout(r, 20))]);
      assert.equal(early, undefined, "it ended before it was killed");
    }
    killed.child.kill("SIGKILL");
    await killed.ended;
    const early = await Promise.all([works(1).ended, works(2).ended]);
    const late = await works(3).ended;
    for (const { code, err } of [...early, late]) assert.equal(code, 0, err);
    const status = await does("status", PLACE, "--json");
    const { units, of, left } = JSON.parse(status.out);
    assert.deepEqual([units, of, left], [6, 6, []]);
    const [out, alone] = [`${folder}/out`, `${folder}/alone`];
    const merged = await does("merge", PLACE, "--output", out);
    assert.equal(merged.code, 0, merged.err);
    const whole = await sluice(["quantize", "sample", ...FLAGS, "--output", alone]);
    assert.equal(whole.code, 0, whole.err);
    assert.deepEqual(await bytesOf(out), await bytesOf(alone));
  }));

/** Run a command line against a fake Hub. */
function onHub(hub: FakeHub, words: readonly string[]): Promise<Outcome> {
  const variables: Record<string, string> = { HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN };
  return sluice(words, { env: (name) => variables[name] });
}

Deno.test("what is merged can be published, and the place says how far it is and makes job files", () =>
  inFolder(async (folder) => {
    await using hub = await startFakeHub({
      repos: { "me/other": { "config.json": "{}" } },
    });
    const does = async (...words: string[]) => {
      const { code, out, err } = await onHub(hub, words);
      assert.equal(code, 0, `${words.join(" ")}: ${err}`);
      return out;
    };
    const refused = async (says: RegExp, ...words: string[]) => {
      const { code, err } = await onHub(hub, words);
      assert.notEqual(code, 0, words.join(" "));
      assert.match(err, says);
    };
    const plan = ["plan", "sample", "--scheme", "NF4", "--device", "wasm", "--threads", "1"];
    await refused(/it has other files \("config\.json"\)/, ...plan, "--work-dir", "hf://me/other");
    await refused(
      /say which repository of the Hub, as hf:\/\/org/,
      ...plan,
      "--work-dir",
      "hf://x",
    );
    await does(...plan, "--work-dir", PLACE);
    assert.equal(hub.repo("me/job").settings.private, true);
    await refused(/another job is in it/, ...plan, "--double-quant", "--work-dir", PLACE);
    assert.match(await does("status", PLACE), /done +0 of 6 units\nwaiting .* and 3 more/);
    await refused(/6 of 6 units are not done/, "merge", PLACE, "--output", `${folder}/early`);
    const itself = ["merge", PLACE, "--upload-repo", "me/job", "--yes"];
    // Before anything is merged: else that nothing is done would be told.
    await refused(
      /it has files that Sluice did not write \("job\.json"/,
      ...itself,
    );
    assert.match(await does("work", PLACE), /did 6 of 6 units; all are done: sluice merge hf:/);
    assert.match(await does("status", PLACE), /done +6 of 6 units\nnext +sluice merge hf:/);

    await refused(/no folder is known that stays/, "cluster", "hf-jobs", PLACE);
    const upload = ["--upload-repo", "me/out"];
    const jobs = await does("cluster", "hf-jobs", PLACE, ...upload, "--workers", "2");
    const path = `${folder}/jobs.sh`;
    await Deno.writeTextFile(path, jobs);
    const checked = await new Deno.Command("bash", { args: ["-n", path] }).output();
    assert.equal(checked.code, 0, new TextDecoder().decode(checked.stderr));
    assert.match(jobs, /--secrets HF_TOKEN .* work hf:\/\/me\/job --worker-index /);
    assert.match(jobs, /# .* merge hf:\/\/me\/job --upload-repo me\/out --yes/);
    assert.doesNotMatch(jobs, /--volume/);
    const slurm = await does("cluster", "slurm", PLACE, "--output", `${folder}/out`);
    assert.match(slurm, /merge hf:\/\/me\/job --output/);
    const documents = parseAllDocuments(await does("cluster", "kubernetes", PLACE, ...upload));
    for (const document of documents) {
      const { spec: { template: { spec } } } = document.toJS();
      const [{ env, volumeMounts }] = spec.containers;
      assert.deepEqual([spec.volumes, volumeMounts], [undefined, undefined]);
      assert.equal(env[0].valueFrom.secretKeyRef.key, "HF_TOKEN");
    }

    await does("merge", PLACE, ...upload, "--yes", "--output", `${folder}/out`);
    await does("quantize", ...plan.slice(1), "--output", `${folder}/alone`);
    assert.deepEqual(await bytesOf(`${folder}/out`), await bytesOf(`${folder}/alone`));
    assert.ok(hub.repo("me/out").head().files.has("model.safetensors"));
    assert.equal(hub.repo("me/out").settings.private, true);
    assert.deepEqual(hub.violations, []);
  }));

Deno.test("a folder says, too, how far the plan is that machines share in it", () =>
  inFolder(async (folder) => {
    const job = `${folder}/job`;
    const plan = ["plan", "sample", "--scheme", "NF4", "--device", "wasm", "--work-dir", job];
    assert.equal((await sluice(plan)).code, 0);
    await Deno.mkdir(`${job}/leases/00003.0`);
    const holder = { host: "elsewhere", process: 7, until: Date.now() + 60_000 };
    await Deno.writeTextFile(`${job}/leases/00003.0/holder.json`, JSON.stringify(holder));
    const { code, out, err } = await sluice(["status", job, "--json"]);
    assert.equal(code, 0, err);
    const { units, of, left } = JSON.parse(out) as Record<string, unknown> & { left: unknown[] };
    assert.deepEqual([units, of, left.length], [0, 6, 6]);
    assert.deepEqual(left[3], { unit: "model.layers.2", worker: "elsewhere, process 7" });
  }));
