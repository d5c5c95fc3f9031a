/** Machines that share a plan: whoever does which unit, and whenever, one machine's bytes come of it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Disk, disk } from "../src/io/disk.ts";
import { HOLDER_FILE } from "../src/run/leases.ts";
import type { Reporter } from "../src/report.ts";
import { work } from "../src/run/worker.ts";
import { WorkFolder } from "../src/run/work_folder.ts";
import { FLOAT, RTN, SHARDS, shared, STATIC } from "./work_given.ts";

/** A lease as another process left it. */
async function writeLease(work: string, name: string, holder: object): Promise<void> {
  const place = join(work, "leases", name);
  await Deno.mkdir(place, { recursive: true });
  await Deno.writeTextFile(join(place, HOLDER_FILE), JSON.stringify(holder));
}

for (
  const { options, count } of [
    { options: RTN, count: 1 },
    { options: RTN, count: 3 },
    { options: { ...FLOAT, method: "gptq" }, count: 1 },
    { options: { ...FLOAT, method: "awq+gptq" }, count: 2 },
    { options: { ...FLOAT, method: "gptq+tune", iterations: 2 }, count: 3 },
    { options: { ...SHARDS, method: "gptq" }, count: 1 },
    { options: { ...SHARDS, method: "gptq" }, count: 2 },
    { options: { ...SHARDS, method: "awq+gptq" }, count: 3 },
    { options: { ...SHARDS, method: "awq+gptq" }, count: 5 },
    { options: { ...SHARDS, ...STATIC }, count: 3 },
  ]
) {
  Deno.test(`${count} workers make by ${options.method} what one machine makes`, () =>
    shared(options, async ({ made, source, backend, inputs, path, job, alone, merged }) => {
      const folder = await WorkFolder.create(disk, path, job);
      // At once, and the last comes when all is done.
      const early = Array.from(
        { length: Math.max(1, count - 1) },
        (_, index) => work(made, { folder, index, count, source, backend, ...inputs }),
      );
      const did = (await Promise.all(early)).flatMap(({ did }) => did);
      const late = await work(made, {
        folder,
        index: count - 1,
        count,
        source,
        backend,
        ...inputs,
      });
      assert.deepEqual(late.left, []);
      assert.deepEqual(
        [...did, ...late.did].sort(),
        made.units.map(({ name }) => name).sort(),
        "each unit is done once",
      );
      assert.deepEqual(await merged(folder), await alone());
      assert.deepEqual(await disk.list(join(path, "leases")), []);
    }));
}

for (const after of [1, 3, 5, 8]) {
  Deno.test(`shards of a worker that ends after ${after} windows are taken over, and a late one has its own`, () =>
    shared({ ...SHARDS, method: "awq+gptq" }, async (around) => {
      const { made, source, backend, inputs, path, job, alone, merged } = around;
      const folder = await WorkFolder.create(disk, path, job);
      const given = { folder, count: 3, source, backend, ...inputs };
      const ends = new AbortController();
      let windows = 0;
      let late: Promise<unknown> | undefined;
      const report = ({ type }: { readonly type: string }) => {
        if (type === "advanced" && ++windows === after) {
          late = work(made, { ...given, index: 2 });
          ends.abort(new Error("the worker ends"));
        }
      };
      const [ended, other] = await Promise.allSettled([
        work(made, { ...given, index: 1, report, signal: ends.signal }),
        work(made, { ...given, index: 0 }),
      ]);
      assert.equal(ended.status, "rejected");
      assert.equal(other.status, "fulfilled", String((other as PromiseRejectedResult).reason));
      await late;
      assert.deepEqual(await folder.undone(), []);
      assert.deepEqual(await merged(folder), await alone());
      assert.equal(await disk.lstat(join(path, "calibration")), undefined);
      assert.deepEqual(await disk.list(join(path, "leases")), []);
    }));
}

Deno.test("on the original's states windows walk once for all workers", () =>
  shared({ ...FLOAT, method: "gptq" }, async (around) => {
    const { made, source, backend, inputs, path, job, alone, merged } = around;
    const folder = await WorkFolder.create(disk, path, job);
    const walked = async (act: (report: Reporter) => Promise<unknown>) => {
      let windows = 0;
      await act((event) => {
        if (event.type === "advanced") windows++;
      });
      return windows;
    };
    const count = 4;
    const given = { folder, count, source, backend, ...inputs };
    const shares = Array.from(
      Array(count).keys(),
      (index) => walked((report) => work(made, { ...given, index, report })),
    );
    const all = (await Promise.all(shares)).reduce((sum, windows) => sum + windows);
    const own = await WorkFolder.create(disk, `${path}-one`, job);
    const one = await walked((report) =>
      work(made, { ...given, folder: own, index: 0, count: 1, report })
    );
    assert.ok(one > 0);
    assert.ok(all < 2 * one, `${all} windows, where one machine has ${one}`);
    assert.deepEqual(await merged(folder), await alone());
  }, { blocks: 6 }));

for (const after of [1, 12, 30]) {
  Deno.test(`states of a worker that ends after ${after} windows are gone on from`, () =>
    shared({ ...FLOAT, method: "awq+gptq" }, async (around) => {
      const { made, source, backend, inputs, path, job, alone, merged } = around;
      const folder = await WorkFolder.create(disk, path, job);
      const given = { folder, count: 3, source, backend, ...inputs };
      const ends = new AbortController();
      let windows = 0;
      const report = ({ type }: { readonly type: string }) => {
        if (type === "advanced" && ++windows === after) ends.abort(new Error("the worker ends"));
      };
      const first = work(made, { ...given, index: 1, report, signal: ends.signal });
      await assert.rejects(first, /the worker ends/);
      // What a person has removed is made again.
      const [lost] = await folder.shards.blocks();
      if (lost !== undefined) await folder.shards.remove(lost);
      await Promise.all([0, 2].map((index) => work(made, { ...given, index })));
      assert.deepEqual(await folder.undone(), []);
      assert.equal((await folder.shards.blocks()).length, 0);
      assert.deepEqual(await merged(folder), await alone());
      assert.equal(await disk.lstat(join(path, "calibration")), undefined);
      assert.deepEqual(await disk.list(join(path, "leases")), []);
    }, { blocks: 6 }));
}

Deno.test("states that are not those that were written are refused, and made again without them", () =>
  shared({ ...FLOAT, method: "gptq" }, async (around) => {
    const { made, source, backend, inputs, path, job, alone, merged } = around;
    const folder = await WorkFolder.create(disk, path, job);
    const given = { folder, index: 0, count: 2, source, backend, ...inputs };
    const ends = new AbortController();
    const report = ({ type }: { readonly type: string }) => {
      if (type === "quantized") ends.abort(new Error("the worker ends"));
    };
    await assert.rejects(work(made, { ...given, report, signal: ends.signal }), /the worker ends/);
    const [unit] = await folder.shards.blocks();
    assert.ok(unit !== undefined);
    const file = join(path, "calibration", String(unit).padStart(5, "0"), "before.0");
    const bytes = await Deno.readFile(file);
    bytes[100]! ^= 1;
    await Deno.writeFile(file, bytes);
    await assert.rejects(work(made, given), {
      name: "RequestError",
      message: /its bytes are not those that were written\. Remove it, and have it made again\.$/,
    });
    await Deno.remove(file);
    await work(made, given);
    assert.deepEqual(await merged(folder), await alone());
  }, { blocks: 6 }));

for (
  const { options, file } of [
    { options: { ...SHARDS, method: "gptq" }, file: /00001.[\d-]+\w*\.1-\w+$/ },
    { options: { ...SHARDS, method: "gptq" }, file: /00003.[\d-]+\w*\.1-\w+$/ },
    { options: { ...SHARDS, method: "gptq" }, file: /00002.before\.1-\w+$/ },
    { options: { ...FLOAT, method: "gptq" }, file: /00003.before\.0-\w+$/ },
  ]
) {
  Deno.test(`what others did while a worker slept is no fault of its: at ${file.source}`, () =>
    shared(options, async ({ made, source, backend, inputs, path, job, alone, merged }) => {
      const folder = await WorkFolder.create(disk, path, job);
      const given = { source, backend, ...inputs };
      let slept = false;
      const sleepy: Disk = {
        ...disk,
        async rename(from, to) {
          if (file.test(from) && !slept) {
            slept = true;
            // Its leases run out, and another comes.
            await Deno.remove(join(path, "leases"), { recursive: true });
            await Deno.mkdir(join(path, "leases"));
            await work(made, { ...given, folder, index: 0, count: 3 });
          }
          await disk.rename(from, to);
        },
      };
      const late = await WorkFolder.open(sleepy, path);
      await work(made, { ...given, folder: late, index: 1, count: 4 });
      assert.ok(slept);
      assert.deepEqual(await folder.undone(), []);
      assert.deepEqual(await merged(folder), await alone());
      assert.equal(await disk.lstat(join(path, "calibration")), undefined);
    }, { blocks: 3 }));
}

Deno.test("workers that do not agree how many there are do all shards, and none waits for ever", () =>
  shared({ ...SHARDS, method: "gptq" }, async (around) => {
    const { made, source, backend, inputs, path, job, alone, merged } = around;
    const folder = await WorkFolder.create(disk, path, job);
    const given = { folder, source, backend, ...inputs };
    // Of shard 3 each holds the other to be its worker; and one comes twice.
    await Promise.all([
      work(made, { ...given, index: 0, count: 2 }),
      work(made, { ...given, index: 1, count: 3 }),
      work(made, { ...given, index: 1, count: 3 }),
    ]);
    assert.deepEqual(await folder.undone(), []);
    assert.deepEqual(await merged(folder), await alone());
  }));

Deno.test("what a worker that died was at is done by another, and its leftovers are of no account", () =>
  shared(RTN, async ({ made, source, backend, path, job, alone, merged }) => {
    const folder = await WorkFolder.create(disk, path, job);
    const at = { files: made.files, size: 1000 };
    // One of another machine that renews no more, and half of what it wrote.
    const dead = { host: "elsewhere", process: 1, until: Date.now() + 60_000 };
    await writeLease(path, "00001.3", dead);
    const half = await folder.gather(1, at);
    const first = await work(made, { folder, index: 0, count: 1, source, backend });
    assert.deepEqual(first.left, [made.units[1]!.name]);
    await assert.rejects(merged(folder, "early"), {
      name: "RequestError",
      message: /1 of \d+ units are not done \(.*\)\. Have a worker do them/,
    });
    await writeLease(path, "00001.3", { ...dead, until: Date.now() - 1 });
    const second = await work(made, { folder, index: 0, count: 1, source, backend });
    assert.deepEqual(second, { did: [made.units[1]!.name], left: [] });
    await half[Symbol.asyncDispose]();
    assert.deepEqual(await merged(folder), await alone());
  }));

Deno.test("a lease is one worker's until it is given back, has run out, or its process is gone", () =>
  shared(RTN, async ({ path, job }) => {
    const folder = await WorkFolder.create(disk, path, job);
    // As tools that copy files alone leave it.
    await Deno.remove(join(path, "leases"));
    const other = await WorkFolder.open(disk, path);
    const lease = await folder.lease(2);
    assert.ok(lease);
    assert.equal(await other.lease(2), undefined);
    await lease[Symbol.asyncDispose]();
    const next = await other.lease(2);
    assert.ok(next);
    await next[Symbol.asyncDispose]();
    const gone = { host: disk.hostName(), process: 2 ** 30, until: Date.now() + 60_000 };
    await writeLease(path, "00002.0", gone);
    const taken = await folder.lease(2);
    assert.equal(taken !== undefined, Deno.build.os === "linux");
    await taken?.[Symbol.asyncDispose]();
    assert.deepEqual(await disk.list(join(path, "leases")), taken ? [] : ["00002.0"]);
  }));

Deno.test("of many that take a lease at once one has it, whether it is new or has run out", () =>
  shared(RTN, async ({ path, job }) => {
    const folder = await WorkFolder.create(disk, path, job);
    for (const round of Array(20).keys()) {
      if (round % 2 === 1) await writeLease(path, "00001.7", { host: "elsewhere", until: 0 });
      const taken = await Promise.all(Array.from({ length: 8 }, () => folder.lease(1)));
      assert.equal(taken.filter(Boolean).length, 1);
      for (const lease of taken) await lease?.[Symbol.asyncDispose]();
      assert.deepEqual(await disk.list(join(path, "leases")), []);
    }
  }));

Deno.test("a lease goes from hand to hand: one holds it, none is lost, none fails", () =>
  shared(RTN, async ({ path, job }) => {
    const folder = await WorkFolder.create(disk, path, job);
    let [holding, held] = [0, 0];
    const worker = async () => {
      for (let round = 0; round < 50; round++) {
        const lease = await folder.lease(1);
        if (!lease) continue;
        assert.equal(++holding, 1);
        held++;
        await new Promise((resolve) => setTimeout(resolve));
        holding--;
        await lease[Symbol.asyncDispose]();
      }
    };
    await Promise.all(Array.from({ length: 8 }, worker));
    assert.ok(held > 0);
    assert.deepEqual(await disk.list(join(path, "leases")), []);
  }));

Deno.test("a unit whose bytes or record are not those that were written is refused", () =>
  shared(RTN, async ({ made, source, backend, path, job, alone, merged }) => {
    const folder = await WorkFolder.create(disk, path, job);
    await work(made, { folder, index: 0, count: 1, source, backend });
    const [bin, record] = ["bin", "json"].map((kind) => join(path, "units", `00001.${kind}`));
    const [bytes, text] = [await Deno.readFile(bin!), await Deno.readTextFile(record!)];
    const refused = async (name: string, says: RegExp) =>
      await assert.rejects(merged(folder, name), { name: "RequestError", message: says });
    await Deno.writeFile(bin!, bytes.with(3, bytes[3]! ^ 1));
    await refused("one", /not those that were written\. Remove it, and have the unit done again/);
    await Deno.writeFile(bin!, bytes.subarray(1));
    await refused("two", /1 of \d+ units are not done/);
    await Deno.remove(bin!);
    await refused("three", /1 of \d+ units are not done/);
    await Deno.writeFile(`${bin}-00000000`, bytes.subarray(9));
    const again = await work(made, { folder, index: 0, count: 1, source, backend });
    assert.deepEqual(again.did, [made.units[1]!.name], "what is missing is done again");
    assert.deepEqual(await Deno.readFile(bin!), bytes);
    await Deno.writeTextFile(record!, text.replace(job.key, "0".repeat(64)));
    await refused("four", /it is not of this job/);
    await Deno.writeTextFile(record!, text);
    assert.deepEqual(await merged(folder), await alone());
    assert.deepEqual((await disk.list(join(path, "units"))).filter((n) => n.includes("-")), []);
  }));

Deno.test("what cannot be shared, and folders of something else, are refused", () =>
  shared({ ...FLOAT, "calibrate-on": "quantized", method: "gptq" }, async (around) => {
    const { made, source, backend, inputs, path, job } = around;
    const folder = await WorkFolder.create(disk, path, job);
    await assert.rejects(work(made, { folder, index: 0, count: 1, source, backend, ...inputs }), {
      name: "UnsupportedError",
      message: /Give `calibration-shards`, as many as workers or more, .* or `calibrate-on` float/,
    });
    assert.equal((await WorkFolder.create(disk, path, job)).job.key, job.key, "the same job");
    await assert.rejects(WorkFolder.create(disk, path, { ...job, key: "0" }), {
      message: /another job is in it/,
    });
    await assert.rejects(WorkFolder.open(disk, join(path, "units")), { message: /no job\.json/ });
    await assert.rejects(WorkFolder.create(disk, join(path, ".."), job), {
      message: /it is not empty/,
    });
    await Deno.writeTextFile(join(path, "job.json"), '{"job": 2}');
    await assert.rejects(WorkFolder.open(disk, path), { message: /not what this version/ });
  }));
