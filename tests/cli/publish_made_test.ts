/**
 * An output that is whole and was not committed, because the process was killed or the Hub refused:
 * the same command commits it, once, and sends nothing that is there.
 */
import assert from "node:assert/strict";
import {
  NAME,
  partsTaken,
  posts,
  QUANTIZE,
  spawn,
  until,
  UPLOAD,
  withHub,
} from "../alongside_given.ts";
import type { Answer } from "../fake_hub/answer.ts";
import type { FaultMatch } from "../fake_hub/faults.ts";
import { type FakeHub, TOKEN } from "../fake_hub/mod.ts";
import { hashesOf } from "../publish_given.ts";
import { disk } from "../../src/io/disk.ts";
import { readJournal } from "../../src/io/journal.ts";
import { names, type Outcome, sluice } from "./host.ts";

/** Commits of the branch, the repository's own first one not counted. */
function commits(hub: FakeHub): number {
  let count = 0;
  for (let at = hub.repo(NAME).head().parent; at; at = at.parent) count++;
  return count;
}

/** Run a command as a process, and kill it while it waits for an answer that comes too late. */
async function killAt(
  match: FaultMatch,
  { hub, folder, command }: {
    readonly hub: FakeHub;
    readonly folder: string;
    readonly command: readonly string[];
  },
): Promise<void> {
  const silence = Promise.withResolvers<void>();
  let silent = false;
  const change = async (answer: Answer) => {
    silent = true;
    await silence.promise;
    return answer;
  };
  hub.faults.add({ kind: "answer", change, ...match });
  const child = spawn(hub, folder, TOKEN, command);
  await until(() => silent);
  child.kill("SIGKILL");
  assert.equal((await child.output()).signal, "SIGKILL");
  silence.resolve();
  hub.faults.clear();
}

/** See that all files of a folder are committed as they are, and that no part was sent twice. */
async function checkCommitted(hub: FakeHub, made: Record<string, string>): Promise<void> {
  assert.equal(commits(hub), 1);
  assert.ok(partsTaken(hub).size > 4);
  assert.deepEqual([...partsTaken(hub).values()].filter((times) => times > 1), []);
  const { files } = hub.repo(NAME).head();
  for (const [name, hash] of Object.entries(made).filter(([name]) => !name.startsWith("."))) {
    assert.equal(await files.get(name)!.content.sha256(), hash, name);
  }
  assert.ok([...files.keys()].some((name) => name.endsWith(".safetensors")));
  assert.ok(files.has("README.md"));
}

for (
  const { moment, path, committed } of [
    { moment: "before the commit is asked for", path: "/preupload/", committed: 0 },
    { moment: "when the commit is made and its answer lost", path: "/commit/", committed: 1 },
  ]
) {
  for (const words of [[], ["--max-disk", "3MB"]]) {
    const how = words.length > 0 ? ", its weights on the Hub alone" : "";
    Deno.test({
      name: `a run that is killed ${moment} is committed by the same command, once${how}`,
      ignore: Deno.build.os === "windows",
      fn: () =>
        withHub(async (hub, folder) => {
          const command = [
            ...QUANTIZE.split(" "),
            ...["--max-shard-size", "300kB", ...UPLOAD, ...words],
          ];
          await killAt({ path }, { hub, folder, command });
          assert.equal(commits(hub), committed);
          assert.deepEqual(names(folder), ["out"]);
          const made = await hashesOf(`${folder}/out`);
          const weights = Object.keys(made).filter((name) => name.endsWith(".safetensors"));
          assert.equal(weights.length > 0, words.length === 0);
          hub.faults.clear();
          const { code, stdout, stderr } = await spawn(hub, folder, TOKEN, command).output();
          const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
          assert.equal(code, 0, said);
          assert.match(said, /out is there already, whole; it is published now/);
          assert.deepEqual(await hashesOf(`${folder}/out`), made);
          await checkCommitted(hub, made);
        }),
    });
  }
}

/** The addresses of parts that storage has, as a folder's uploads are remembered beside it. */
async function notedParts(place: string): Promise<string[]> {
  const { records } = await readJournal(disk, `${place}/uploads.jsonl`);
  let hrefs: readonly string[] = [];
  const noted: string[] = [];
  for (const record of records as Record<string, unknown>[]) {
    if (record.upload === "began") {
      hrefs = (record.addresses as { parts: { hrefs: string[] } }).parts.hrefs;
    } else if (record.upload === "part") {
      const { pathname } = new URL(hrefs[record.part as number]!);
      noted.push(pathname);
    }
  }
  return noted;
}

for (const command of ["merge", "publish"]) {
  Deno.test({
    name: `${command} that is killed while it sends sends no part again that storage has`,
    ignore: Deno.build.os === "windows",
    fn: () =>
      withHub(async (hub, folder) => {
        const [job, out] = [`${folder}/job`, `${folder}/out`];
        const flags = [
          "--scheme",
          "W8A16",
          "--method",
          "rtn",
          "--device",
          "wasm",
          "--threads",
          "1",
        ];
        for (const words of [["plan", "sample", ...flags, "--work-dir", job], ["work", job]]) {
          assert.equal((await run(hub, folder, words)).code, 0);
        }
        if (command === "publish") await run(hub, folder, ["merge", job, "--output", out]);
        const words = command === "merge"
          ? ["merge", job, ...UPLOAD]
          : ["publish", out, NAME, "--yes", "--device", "wasm"];
        const noted = new Map<string, number | undefined>();
        for (let kill = 1; kill <= 2; kill++) {
          // Each process is killed while one part waits for its answer, and others are there.
          const parts = { on: "storage", method: "PUT", skip: 15 * kill, times: 1000 } as const;
          await killAt(parts, { hub, folder, command: words });
          assert.equal(commits(hub), 0);
          assert.ok(names(folder).includes("out.sluice-upload"));
          assert.equal((await Deno.stat(`${out}.sluice-upload`)).mode! & 0o777, 0o700);
          const taken = partsTaken(hub);
          for (const part of await notedParts(`${out}.sluice-upload`)) {
            noted.set(part, taken.get(part));
          }
        }
        assert.ok(noted.size > 0);
        const { code, stderr } = await spawn(hub, folder, TOKEN, words).output();
        assert.equal(code, 0, new TextDecoder().decode(stderr));
        assert.deepEqual(names(folder).filter((name) => name.startsWith("out")), ["out"]);
        assert.equal(commits(hub), 1);
        const taken = partsTaken(hub);
        for (const [part, times] of noted) assert.equal(taken.get(part), times, part);
      }),
  });
}

Deno.test({
  name: "a merge that is killed before its commit is committed by the same command",
  ignore: Deno.build.os === "windows",
  fn: () =>
    withHub(async (hub, folder) => {
      const job = `${folder}/job`;
      const texts = ["--num-samples", "2", "--seq-len", "32", "--calibrate-on", "float"];
      const flags = ["--group-size", "64", "--device", "wasm", "--threads", "1", ...texts];
      for (const words of [["plan", "sample", ...flags, "--work-dir", job], ["work", job]]) {
        assert.equal((await run(hub, folder, words)).code, 0);
      }
      const command = ["merge", job, ...UPLOAD];
      await killAt({ path: "/preupload/" }, { hub, folder, command });
      const made = await hashesOf(`${folder}/out`);
      const { code, stdout, stderr } = await spawn(hub, folder, TOKEN, command).output();
      const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assert.equal(code, 0, said);
      assert.match(said, /out is there already, whole; it is published now/);
      assert.equal(commits(hub), 1);
      // That of another job is not.
      const other = ["plan", "sample", ...flags, "--scheme", "W3A16", "--work-dir", `${job}-8`];
      for (const words of [other, ["work", `${job}-8`]]) {
        assert.equal((await run(hub, folder, words)).code, 0);
      }
      const refused = await spawn(hub, folder, TOKEN, ["merge", `${job}-8`, ...UPLOAD]).output();
      assert.equal(refused.code, 1);
      assert.match(new TextDecoder().decode(refused.stderr), /its recipe differs/);
      assert.deepEqual(await hashesOf(`${folder}/out`), made);
    }),
});

/** Run a command line against a Hub. */
function run(hub: FakeHub, folder: string, words: readonly string[]): Promise<Outcome> {
  const env: Readonly<Record<string, string>> = {
    HF_ENDPOINT: hub.endpoint,
    HF_TOKEN: TOKEN,
    HF_HOME: folder,
  };
  return sluice(words, { env: (name) => env[name] });
}

const BOUND = "quantize sample --group-size 64 --device wasm --num-samples 2 --seq-len 64 " +
  "--target-bpw 5 --sensitivity-samples 1 --options W4A16,W8A16";
const BY_BITS = [...BOUND.split(" "), ...UPLOAD];

for (
  const [what, command, others] of [
    ["a scheme", [...QUANTIZE.split(" "), "--evaluate", "--num-samples", "2", ...UPLOAD], {
      recipe: ["--group-size 64", "--group-size 32"],
      evaluation: ["--num-samples 2", "--num-samples 3"],
    }],
    ["bits that were searched for", BY_BITS, { command: ["--target-bpw 5", "--target-bpw 6"] }],
  ] as const
) {
  Deno.test(`an output by ${what} that the Hub refused is published by the same command, and no other`, () =>
    withHub(async (hub, folder) => {
      const words = [...command, "--output", `${folder}/out`];
      hub.faults.add({
        ...{ kind: "status", status: 403, method: "POST", path: /\/commit\//, times: Infinity },
      });
      const refused = await run(hub, folder, words);
      assert.equal(refused.code, 4, refused.err);
      assert.match(refused.err, /The checkpoint stays in /);
      const again = await run(hub, folder, words);
      assert.equal(again.code, 4, again.err);
      assert.match(again.err, /The checkpoint stays in .*\n.*To publish it: {2}sluice publish /);
      hub.faults.clear();
      const made = await hashesOf(`${folder}/out`);
      const asked = posts(hub, /\/commit\//);
      for (const [key, [from, to]] of Object.entries(others)) {
        const other = words.join(" ").replace(from!, to!).split(" ");
        const { code, err } = await run(hub, folder, other);
        assert.equal(code, 1, err);
        const says = `another than this command makes: its ${key} differs. Give a new folder, or`;
        assert.ok(err.includes(says), err);
      }
      assert.equal(posts(hub, /\/commit\//), asked);
      const { code, out, err } = await run(hub, folder, [...words, "--json"]);
      assert.equal(code, 0, err);
      const lines = out.trim().split("\n").map((line) => JSON.parse(line));
      assert.deepEqual(lines.map(({ type }) => type).slice(-2), ["result", "published"]);
      const result = lines.at(-2);
      assert.equal(result.output, `${folder}/out`);
      assert.equal(result.seconds, null);
      assert.ok(result.bits_per_weight > 4);
      await checkCommitted(hub, made);
      const after = await run(hub, folder, words);
      assert.equal(after.code, 0, after.err);
      assert.match(after.out, /was there already, just so/);
      await checkCommitted(hub, made);
    }));
}

Deno.test("an output of a saved plan that the Hub refused is published by the same command", () =>
  withHub(async (hub, folder) => {
    const file = `${folder}/plan.json`;
    const planned = await run(hub, folder, [
      ...QUANTIZE.replace("quantize", "plan").split(" "),
      ...["--save-plan", file],
    ]);
    assert.equal(planned.code, 0, planned.err);
    const place = ["--device", "wasm", "--output", `${folder}/out`];
    const words = ["quantize", "sample", "--plan", file, ...place, ...UPLOAD];
    hub.faults.add({
      ...{ kind: "status", status: 403, method: "POST", path: /\/commit\//, times: Infinity },
    });
    const refused = await run(hub, folder, words);
    assert.equal(refused.code, 4, refused.err);
    hub.faults.clear();
    const made = await hashesOf(`${folder}/out`);
    const { code, err } = await run(hub, folder, words);
    assert.equal(code, 0, err);
    assert.match(err, /out is there already, whole/);
    await checkCommitted(hub, made);
  }));
