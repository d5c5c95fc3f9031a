/**
 * Machines that share nothing but a repository of the Hub: whoever dies, comes late or is overtaken,
 * and whatever the network does, one machine's bytes come of it.
 */
import assert from "node:assert/strict";
import { HubPlace } from "../src/meeting/hub_place.ts";
import { SharedRepository } from "../src/meeting/repository.ts";
import { FileBlob, textReader } from "../src/publish/file_blob.ts";
import { readAll } from "./fake_hub/content.ts";
import { type Fault, type FaultMatch, READ_TOKEN, STRANGER_TOKEN } from "./fake_hub/mod.ts";
import { CANARY } from "./hub_given.ts";
import { hurried, type Meeting, meeting, PLACE, refused } from "./meeting_given.ts";
import { FLOAT, RTN } from "./work_given.ts";

for (
  const { options, count } of [
    { options: RTN, count: 1 },
    { options: RTN, count: 3 },
    { options: { ...FLOAT, method: "gptq" }, count: 1 },
    { options: { ...FLOAT, method: "awq+gptq" }, count: 3 },
  ]
) {
  Deno.test(`${count} workers that meet on the Hub make by ${options.method} what one machine makes`, () =>
    meeting(options, async ({ made, open, worker, put, alone, commits, hub }) => {
      const all = await Promise.all(Array.from({ length: count }, (_, i) => worker(i, count)));
      // Some leave while others are at the last units, and none before.
      assert.deepEqual(await (await open()).undone(), []);
      assert.ok(all.some(({ left }) => left.length === 0));
      const did = all.flatMap(({ did }) => did);
      assert.deepEqual([...new Set(did)].sort(), made.units.map(({ name }) => name).sort());
      assert.deepEqual(await put(), await alone());
      assert.equal(hub.repo("me/job").settings.private, true);
      if (count === 1) assert.ok(commits() <= 4, `${commits()} commits`);
      // Who comes when all is done does nothing, and no commit.
      const before = commits();
      assert.deepEqual(await worker(0, count), { did: [], left: [] });
      assert.equal(commits(), before);
    }));
}

Deno.test("what workers that died have claimed is done by others, of which one comes late", () =>
  meeting(RTN, async ({ made, open, worker, put, alone, events }) => {
    // It claims its share and half of that of one that never comes, and is killed at its first unit.
    const dead = await open();
    const turns = dead.turns({ index: 0, count: 2 });
    const { value } = await turns.next();
    assert.ok(Array.isArray(value) && value.length >= 2);
    await using half = await dead.gather(0, { files: made.files, size: 1000 });
    const late = await worker(1, 2);
    assert.deepEqual(late, { did: late.did, left: [] });
    assert.equal(new Set(late.did).size, made.units.length, "it did all");
    assert.ok(events.some((event) => event.type === "warning" && event.code === "waiting"));
    assert.deepEqual(await put(), await alone());
    assert.ok(half);
  }));

Deno.test("one that is stopped leaves what it has done, and the same command goes on", () =>
  meeting(RTN, async ({ made, source, backend, open, worker, put, alone }) => {
    const { work } = await import("../src/run/worker.ts");
    const stop = new AbortController();
    let named = 0;
    {
      await using place = await open({ signal: stop.signal });
      const stopped = work(made, {
        folder: place,
        index: 0,
        count: 1,
        source,
        backend,
        signal: stop.signal,
        report: (event) => {
          if (event.type === "quantized" && ++named === 12) stop.abort(new Error("enough"));
        },
      });
      await assert.rejects(stopped, { message: "enough" });
    }
    const next = await open();
    const done = made.units.length - (await next.undone()).length;
    assert.ok(done >= 1 && done < made.units.length, `${done} units were done`);
    const { did } = await worker(0, 1, next);
    assert.equal(did.length, made.units.length - done);
    assert.deepEqual(await put(), await alone());
  }));

Deno.test("of many that commit at the same moment none is lost, and each commits once", () =>
  meeting(RTN, async ({ hub, options, commits }) => {
    const repo = { kind: "model", id: "me/job", revision: undefined } as const;
    const before = commits();
    const names = Array.from({ length: 8 }, (_, i) => `units/9${i}.json`);
    await Promise.all(names.map(async (name) => {
      const repository = new SharedRepository(repo, options());
      const made = await repository.change(
        name,
        (look) => Promise.resolve(new Map([[name, new FileBlob(textReader(look.commit))]])),
      );
      assert.deepEqual([made, repository.commits], [true, 1]);
    }));
    assert.equal(commits() - before, names.length);
    const { files } = hub.repo("me/job").head();
    assert.deepEqual(names.filter((name) => !files.has(name)), []);
    const parents = await Promise.all(names.map((name) => readAll(files.get(name)!.content)));
    const seen = parents.map((bytes) => new TextDecoder().decode(bytes));
    assert.equal(new Set(seen).size, names.length, "each has decided for what was there before it");
  }));

Deno.test("repositories of something else, of another job or version, are refused", () =>
  meeting(RTN, async ({ hub, options, job, open }) => {
    const create = (name: string, more = job) => HubPlace.create(name, more, options());
    await create(PLACE);
    await refused(create(PLACE, { ...job, key: "0" }), "RequestError", /another job is in it/);
    hub.repo("me/job").commit({ files: { "job.json": '{"job": 2}' } });
    await refused(open(), "RequestError", /its job\.json is not what this version/);
    await refused(create(PLACE), "RequestError", /its job\.json is not what this version/);
    hub.repo("me/job").commit({ files: { "config.json": "{}" }, deleted: ["job.json"] });
    await refused(open(), "RequestError", /there is no job\.json/);
    await refused(
      create(PLACE),
      "RequestError",
      /it has other files \("config\.json"\)\. Give a new/,
    );
    await refused(
      HubPlace.open("hf://me/none", { ...options(), writes: true }),
      "HubError",
      /no model/,
    );
    for (const name of ["hf://job", "hf://me/job@main", "me/job", "hf://me/a b"]) {
      await refused(create(name), "RequestError", /say which repository of the Hub, as hf:\/\/org/);
    }
    await refused(create("hf://other/job"), "HubError", /"other" is neither the account of your/);
    for (
      const [token, says] of [[undefined, /there is no token/], [
        READ_TOKEN,
        /may only read/,
      ]] as const
    ) {
      const { hub: way, ...others } = options();
      const given = { ...others, hub: { ...way, token } };
      await refused(HubPlace.create(PLACE, job, given), "HubError", says);
      await refused(HubPlace.open(PLACE, { ...given, writes: true }), "HubError", says);
    }
    const { hub: way, ...others } = options();
    const stranger = { ...others, hub: { ...way, token: STRANGER_TOKEN }, writes: false };
    await refused(HubPlace.open(PLACE, stranger), "HubError", /or it is private/);
  }));

Deno.test("a unit whose bytes or record are not those that were written is refused, one that was removed done again", () =>
  meeting(RTN, async ({ made, hub, worker, put, alone, job }) => {
    await worker(0, 1);
    const repo = hub.repo("me/job");
    const [bin, record] = ["units/00001.bin", "units/00001.json"] as const;
    const bytes = await readAll(repo.head().files.get(bin)!.content);
    const text = new TextDecoder().decode(await readAll(repo.head().files.get(record)!.content));
    const others = /"hf:\/\/me\/job\/units\/00001\.bin": its bytes are not those that were written/;
    repo.commit({ files: { [bin]: bytes.with(3, bytes[3]! ^ 1) } });
    await refused(put("one"), "RequestError", others);
    repo.commit({ files: { [bin]: bytes.slice(1) } });
    await refused(put("two"), "RequestError", others);
    repo.commit({ files: { [bin]: bytes, [record]: text.replace(job.key, "0".repeat(64)) } });
    await refused(put("three"), "RequestError", /it is not of this job/);
    repo.commit({ files: { [record]: text }, deleted: [bin] });
    await refused(put("four"), "RequestError", /1 of \d+ units are not done .*: sluice work "hf:/);
    assert.deepEqual((await worker(0, 1)).did, [made.units[1]!.name]);
    assert.deepEqual(await readAll(repo.head().files.get(bin)!.content), bytes);
    assert.deepEqual(await put(), await alone());
  }));

/** What the network does, by what is said of it. */
const FAULTS: Readonly<Record<string, Fault & FaultMatch>> = {
  "the answer to a commit is lost": { kind: "lost", path: "/commit/main" },
  "a commit is carried out and answered 504": { kind: "lost", status: 504, path: "/commit/main" },
  "a commit is answered 500": { kind: "status", status: 500, path: "/commit/main", times: 2 },
  "others commit first, again and again": {
    kind: "status",
    status: 412,
    path: "/commit/main",
    times: 5,
  },
  "the Hub is busy with another commit": { kind: "status", status: 409, path: "/commit/main" },
  "there are too many commits for an hour": {
    kind: "status",
    status: 429,
    headers: { "Retry-After": "3600" },
    path: "/commit/main",
    times: 3,
  },
  "a unit is lost half-way": { kind: "reset", after: 1000, on: "storage", method: "PUT" },
  "a unit comes, and the answer is lost": { kind: "lost", on: "storage", method: "PUT" },
  "storage is down for a moment": {
    kind: "status",
    status: 503,
    on: "storage",
    method: "PUT",
    times: 2,
  },
  "the batch call fails": { kind: "status", status: 502, path: "objects/batch" },
  "a list of files breaks off": { kind: "cut", how: "close", path: "/tree/" },
  "the head cannot be had": { kind: "status", status: 503, path: "/revision/main", times: 2 },
};

for (const [says, fault] of Object.entries(FAULTS)) {
  Deno.test(`no unit is lost, and none is there twice, when ${says}`, () =>
    meeting(RTN, async ({ hub, made, worker, put, alone }) => {
      const active = hub.faults.add({ ...fault, skip: 1 });
      const { did, left } = await worker(0, 1);
      assert.equal(active.hits, fault.times ?? 1);
      assert.deepEqual([did.length, left], [made.units.length, []]);
      const units = [...hub.repo("me/job").head().files.keys()].filter((p) => p.endsWith(".bin"));
      assert.equal(units.length, made.units.length);
      assert.deepEqual(await put(), await alone());
    }));
}

const READING: Readonly<Record<string, Fault & FaultMatch>> = {
  "is damaged on its way": { kind: "corrupt", at: 500, on: "storage", method: "GET" },
  "breaks off": { kind: "cut", at: 700, how: "reset", on: "storage", method: "GET" },
  "cannot be had for a moment": { kind: "status", status: 503, on: "storage", method: "GET" },
};

for (const [says, fault] of Object.entries(READING)) {
  Deno.test(`what is merged is right when a unit ${says}`, () =>
    meeting(RTN, async ({ hub, worker, put, alone }) => {
      await worker(0, 1);
      const active = hub.faults.add(fault);
      assert.deepEqual(await put(), await alone());
      assert.equal(active.hits, 1);
    }));
}

Deno.test("a worker that cannot reach the Hub any more ends with a sentence, and others do its units", () =>
  meeting(RTN, async (around: Meeting) => {
    const { hub, worker, put, alone, made } = around;
    const active = hub.faults.add({
      kind: "status",
      status: 403,
      path: "objects/batch",
      times: 1e6,
      skip: 1,
    });
    await refused(worker(0, 1), "HubError", /Cannot .*"me\/job".*forbids it/);
    active.remove();
    const { did } = await worker(0, 1);
    assert.ok(did.length >= made.units.length - 1);
    assert.deepEqual(await put(), await alone());
    assert.ok(!JSON.stringify(hub.log).includes(CANARY));
    assert.ok(hurried.now() > 0);
  }));
