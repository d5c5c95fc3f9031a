/**
 * Weights that go up while others are made: what is sent when, what a process that was killed has
 * left to be sent, and what becomes of a Hub that cannot be reached.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { Alongside, checkPublish, planPublish, publish } from "../src/publish.ts";
import type { Event } from "../src/report.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { type FakeHub, TOKEN } from "./fake_hub/mod.ts";
import {
  NAME,
  PART,
  partsTaken,
  posts,
  QUANTIZE,
  reach,
  spawn,
  until,
  UPLOAD,
  withHub,
} from "./alongside_given.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { attempt, interruptEverywhere } from "./resume_given.ts";
import { tinyWindows } from "./run_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";
import { names, sluice } from "./cli/host.ts";

/** Bytes that look like nothing else. */
function bytesOf(seed: number, length: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 8)) % 251);
}

Deno.test("a file is on the Hub before the next one is begun, and the commit comes last", () =>
  withHub(async (hub, folder) => {
    const options = { hub: reach(hub) };
    const destination = await checkPublish(NAME, options, ["a.safetensors", "b.safetensors"]);
    const events: Event[] = [];
    await using files = await openFolderSink(`${folder}/out`, { resume: true });
    await using alongside = new Alongside(files, destination, {
      ...options,
      report: (event) => events.push(event),
    });
    const { sink } = alongside;
    const [first, second] = [bytesOf(7, 3 * PART + 5), bytesOf(11, PART)];
    const write = async (path: string, bytes: Uint8Array) => {
      await using file = await sink.create(path, bytes.length);
      await file.write(0, bytes);
      await file.commit();
    };
    await write("a.safetensors", first);
    await until(() => alongside.taken.has("a.safetensors"));
    assert.equal(hub.repo(NAME).objects.size, 1);
    await write("b.safetensors", second);
    await write("config.json", new TextEncoder().encode("{}"));
    await sink.commit();
    assert.equal(hub.repo(NAME).objects.size, 2);
    assert.equal(posts(hub, /\/commit\//), 0);
    assert.deepEqual([...hub.repo(NAME).head().files.keys()], [".gitattributes"]);
    const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
    assert.deepEqual([...alongside.taken.values()], [
      { path: "a.safetensors", oid: sha256(first), size: first.length, freed: false },
      { path: "b.safetensors", oid: sha256(second), size: second.length, freed: false },
    ]);
    assert.deepEqual(events, [
      { type: "uploaded", path: "a.safetensors", bytes: first.length },
      { type: "uploaded", path: "b.safetensors", bytes: second.length },
    ]);
    const given = { ...options, card: "---\ntags: [sluice]\n---\n" };
    const plan = await planPublish(`${folder}/out`, NAME, given);
    const hashed: string[] = [];
    const { created, commit } = await publish(`${folder}/out`, NAME, {
      ...given,
      plan,
      known: alongside.taken,
      created: alongside.created,
      report: (event) => event.type === "hashing" && hashed.push(event.path),
    });
    assert.equal(created, true);
    assert.equal(commit, hub.repo(NAME).head().sha);
    assert.deepEqual(hashed, []);
    assert.equal(posts(hub, /\/commit\//), 1);
    assert.deepEqual([...partsTaken(hub).values()], [1, 1, 1, 1, 1]);
  }));

Deno.test("a file that cannot be sent stops nothing, and is sent when all are made", () =>
  withHub(async (hub, folder) => {
    const options = { hub: { ...reach(hub), retries: 0 } };
    const destination = await checkPublish(NAME, options, ["a.safetensors"]);
    const events: Event[] = [];
    hub.faults.add({ kind: "status", status: 500, path: "objects/batch" });
    await using files = await openFolderSink(`${folder}/out`);
    await using alongside = new Alongside(files, destination, {
      ...options,
      report: (event) => events.push(event),
    });
    for (const path of ["a.safetensors", "b.safetensors"]) {
      await using file = await alongside.sink.create(path, 9);
      await file.write(0, bytesOf(path.charCodeAt(0), 9));
      await file.commit();
    }
    await alongside.sink.commit();
    const [warning, ...others] = events;
    assert.deepEqual(others, []);
    assert.ok(warning?.type === "warning" && warning.code === "upload-postponed");
    assert.match(warning.message, /What is left is sent when everything is made\.$/);
    const given = { ...options, card: "card" };
    const plan = await planPublish(`${folder}/out`, NAME, given);
    await publish(`${folder}/out`, NAME, { ...given, plan });
    assert.equal(hub.repo(NAME).objects.size, 2);
    assert.equal(posts(hub, /\/commit\//), 1);
  }));

/** What the journal of a run says so far. */
async function journaled(folder: string): Promise<string> {
  try {
    return await Deno.readTextFile(`${folder}/out.sluice-partial/journal.jsonl`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

const CANARY = "hf_canaryCANARY456";

Deno.test({
  name: "a process that is killed while it uploads goes on, and no part is sent twice",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withHub(async (hub, folder) => {
      let known = 0;
      // Each time storage takes some more parts and falls silent; then the process is killed.
      for (const more of [3, 5, 1]) {
        hub.faults.clear();
        hub.faults.add({
          kind: "delay",
          ms: 600_000,
          on: "storage",
          method: "PUT",
          skip: more,
          times: Infinity,
        });
        known += more;
        const child = spawn(hub, folder, CANARY);
        await until(async () => (await journaled(folder)).split(`"upload":"part"`).length > known);
        assert.doesNotMatch(await journaled(folder), /canary/i);
        child.kill("SIGKILL");
        const { signal } = await child.output();
        assert.equal(signal, "SIGKILL");
        assert.equal(posts(hub, /\/commit\//), 0);
      }
      hub.faults.clear();
      const { code, stdout, stderr } = await spawn(hub, folder, CANARY).output();
      const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assert.equal(code, 0, said);
      assert.doesNotMatch(said, /canary/i);
      assert.deepEqual(names(folder), ["out"]);
      assert.equal(posts(hub, /\/commit\//), 1);
      const parts = [...partsTaken(hub).values()];
      assert.ok(parts.length > known);
      assert.deepEqual(parts.filter((times) => times > 1), []);
      const { files } = hub.repo(NAME).head();
      for (const name of names(`${folder}/out`)) {
        const bytes = await Deno.readFile(`${folder}/out/${name}`);
        const { content } = files.get(name)!;
        assert.equal(await content.sha256(), createHash("sha256").update(bytes).digest("hex"));
      }
    }, { tokens: { [CANARY]: { user: "me", role: "write" } } }),
});

Deno.test("a run that is stopped commits nothing, and says that the same command goes on", () =>
  withHub(async (hub, folder) => {
    hub.faults.add({
      kind: "delay",
      ms: 600_000,
      on: "storage",
      method: "PUT",
      skip: 1,
      times: Infinity,
    });
    const child = spawn(hub, folder, TOKEN);
    await until(() => hub.log.filter(({ method }) => method === "PUT").length > 1);
    child.kill("SIGINT");
    const { code, stderr } = await child.output();
    assert.equal(code, 75);
    assert.match(new TextDecoder().decode(stderr), /The same command goes on after/);
    assert.equal(posts(hub, /\/commit\//), 0);
  }));

/** The most bytes of weights in a folder, asked again and again until a process ends. */
async function mostIn(folder: string, child: Deno.ChildProcess): Promise<number> {
  let [most, running] = [0, true];
  child.status.then(() => running = false);
  while (running) {
    let bytes = 0;
    for (const place of [`${folder}/out.sluice-partial/new`, `${folder}/out`]) {
      try {
        for (const { name } of Deno.readDirSync(place)) {
          if (name.endsWith(".safetensors")) bytes += Deno.statSync(`${place}/${name}`).size;
        }
      } catch (error) {
        // It is made, freed or given its name at this moment.
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
    most = Math.max(most, bytes);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return most;
}

Deno.test({
  name: "with little room, weights leave when the Hub has them, also where a run was killed",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withHub(async (hub, folder) => {
      const made = [...QUANTIZE.split(" "), "--max-shard-size", "300kB"];
      const words = [...made, ...UPLOAD, "--max-disk", "2500kB"];
      const begin = () => spawn(hub, folder, TOKEN, words);
      hub.faults.add({
        kind: "delay",
        ms: 600_000,
        on: "storage",
        method: "PUT",
        skip: 35,
        times: Infinity,
      });
      const stopped = begin();
      await until(async () => (await journaled(folder)).split(`"upload":"part"`).length > 35);
      stopped.kill("SIGKILL");
      await stopped.output();
      const taken = [...(await journaled(folder)).matchAll(/"upload":"taken".*?"path":"([^"]+)"/g)];
      assert.ok(taken.length > 0 && taken.length === hub.repo(NAME).objects.size);
      const left = names(`${folder}/out.sluice-partial/new`);
      assert.deepEqual(taken.filter(([, path]) => left.includes(path!)), []);
      hub.faults.clear();
      const child = begin();
      const [most, { code, stderr }] = await Promise.all([mostIn(folder, child), child.output()]);
      const said = new TextDecoder().decode(stderr);
      assert.equal(code, 0, said);
      assert.match(said, /at most 2\.5 MB of the weights are on this disk at once/);
      assert.match(said, /out does not hold the weights \(\d+ files, [^)]*\)/);
      assert.ok(most <= 2500e3, `${most} bytes`);
      assert.deepEqual(names(`${folder}/out`).filter((name) => /safetensors$/.test(name)), []);
      assert.deepEqual([...partsTaken(hub).values()].filter((times) => times > 1), []);
      assert.equal(posts(hub, /\/commit\//), 1);
      assert.equal((await sluice([...made, "--output", `${folder}/whole`])).code, 0);
      const { files } = hub.repo(NAME).head();
      const weights = names(`${folder}/whole`).filter((name) => /safetensors/.test(name));
      assert.ok(weights.length > 4);
      for (const name of weights) {
        const bytes = await Deno.readFile(`${folder}/whole/${name}`);
        const hash = createHash("sha256").update(bytes).digest("hex");
        assert.equal(await files.get(name)!.content.sha256(), hash, name);
      }
    }),
});

Deno.test("a run that is stopped after each unit goes on without the weights that the Hub has alone", () =>
  withHub(async (hub, folder) => {
    const model = await makeCheckpoint(tinyTensors("bf16"), { config: TINY_CONFIG });
    await using _ = { [Symbol.asyncDispose]: () => Deno.remove(model, { recursive: true }) };
    await using backend = await openWasm({ threads: 1 });
    const work = {
      model,
      backend,
      options: { scheme: "NF4", "max-shard-size": "20kB" },
      evaluation: { windows: tinyWindows(3, 12), stateBudget: 1e7 },
    };
    const whole = await attempt({ ...work, out: `${folder}/whole` }, { resume: false });
    const options = { hub: reach(hub) };
    const destination = await checkPublish(NAME, options, []);
    // The output head is read again for the scores, and lies with the embedding.
    const index = JSON.parse(
      await Deno.readTextFile(`${folder}/whole/model.safetensors.index.json`),
    ) as { weight_map: Record<string, string> };
    const staying = new Set(
      Object.entries(index.weight_map).flatMap(([name, file]) =>
        /^lm_head|^model\.(norm|embed)/.test(name) ? [file] : []
      ),
    );
    const { report, stops } = await interruptEverywhere({ ...work, out: `${folder}/out` }, {
      alongside: (sink) =>
        new Alongside(sink, { ...destination, newRepo: !hasRepo(hub) }, {
          ...options,
          room: 1,
          stays: (path) => staying.has(path),
        }),
    });
    assert.ok(stops > 2);
    assert.deepEqual([report.scores, report.tensors], [whole.scores, whole.tensors]);
    const weights = names(`${folder}/whole`).filter((name) => /safetensors$/.test(name));
    assert.ok(weights.length > staying.size + 1);
    for (const name of weights) {
      const bytes = await Deno.readFile(`${folder}/whole/${name}`);
      const oid = createHash("sha256").update(bytes).digest("hex");
      assert.ok(hub.repo(NAME).objects.has(oid), name);
    }
    assert.deepEqual(
      names(`${folder}/out`).filter((name) => /safetensors$/.test(name)),
      [...staying].sort(),
    );
    assert.deepEqual([...partsTaken(hub).values()].filter((times) => times > 1), []);
  }));

function hasRepo(hub: FakeHub): boolean {
  return hub.log.some(({ path, status }) => path === "/api/repos/create" && status === 200);
}
