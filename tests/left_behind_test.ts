/**
 * What killed runs leave: told and removed when nobody uses it any more, never what is in use, and
 * never what was worth the work.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type Disk, disk } from "../src/io/disk.ts";
import { OWNER_FILE } from "../src/io/owner.ts";
import { openTemporary, sweepTemporary } from "../src/io/temporary.ts";
import { RECORD_FILE } from "../src/io/names.ts";
import type { Event } from "../src/report.ts";
import { openFolderSink } from "../src/sinks/folder.ts";

/** A process that holds what `code` opens until it is killed. */
async function holder(code: string): Promise<Deno.ChildProcess> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", `${code}\nconsole.log("held"); setInterval(() => {}, 1000);`],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.getReader();
  assert.match(new TextDecoder().decode((await reader.read()).value), /held/);
  await reader.cancel();
  return child;
}

const module = (path: string) => JSON.stringify(new URL(`../src/${path}`, import.meta.url).href);

async function kill(child: Deno.ChildProcess): Promise<void> {
  child.kill("SIGKILL");
  await child.status;
}

/** Run `test` with an empty folder. */
async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "sluice_left_" }));
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

/** Open an output, and give what was told meanwhile. */
async function openAfter(path: string, given: { disk?: Disk } = {}): Promise<string[]> {
  const events: Event[] = [];
  await using sink = await openFolderSink(path, {
    report: (event) => void events.push(event),
    ...given,
  });
  assert.equal(sink.label, path);
  return events.map((event) => {
    assert.ok(event.type === "warning" && event.code === "left-behind");
    return event.message;
  });
}

Deno.test("a partial output is left alone while its process lives, and told and removed once that was killed", () =>
  withFolder(async (folder) => {
    const child = await holder(
      `import { openFolderSink } from ${module("sinks/folder.ts")};
       const sink = await openFolderSink(${JSON.stringify(`${folder}/one`)});
       const file = await sink.create("a", 5000);
       await file.write(0, new Uint8Array(5000));`,
    );
    const [stage] = names(folder);
    assert.match(stage!, /^one\.sluice-partial-[0-9a-f]{8}$/);
    // Another output beside it, and the same one.
    for (const name of ["one", "two"]) assert.deepEqual(await openAfter(`${folder}/${name}`), []);
    assert.deepEqual(names(folder), [stage]);
    await kill(child);
    assert.deepEqual(names(folder), [stage]);
    const told = await openAfter(`${folder}/two`);
    assert.equal(told.length, 1);
    assert.match(
      told[0]!,
      /^Removed ".*one\.sluice-partial-\w+" \(5.*kB\), which a run that was killed/,
    );
    assert.deepEqual(names(folder), []);
  }));

Deno.test("a checkpoint that a killed run was about to replace gets its name back", () =>
  withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/out.sluice-partial-0123abcd/old`, { recursive: true });
    const stage = `${folder}/out.sluice-partial-0123abcd`;
    await Deno.writeTextFile(`${stage}/old/model.safetensors`, "paid for");
    await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, "{}");
    const told: string[] = [];
    // It is there again, and so the output exists.
    await assert.rejects(
      openFolderSink(`${folder}/out`, {
        report: (event) => void told.push(event.type === "warning" ? event.message : ""),
      }),
      /exists and is not empty/,
    );
    assert.match(told.join(), /^Put ".*\/out" back in its place/);
    assert.deepEqual(names(folder), ["out"]);
    assert.equal(await Deno.readTextFile(`${folder}/out/model.safetensors`), "paid for");
    // Where the new one had its name already, the old one goes.
    await Deno.mkdir(`${stage}/old`, { recursive: true });
    await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, "{}");
    assert.match((await openAfter(`${folder}/other`)).join(), /^Removed /);
    assert.deepEqual(names(folder), ["out"]);
  }));

Deno.test("what cannot be judged is named and stays: without an owner, of another machine, without locks", () =>
  withFolder(async (folder) => {
    const stage = `${folder}/out.sluice-partial-0123abcd`;
    await Deno.mkdir(stage);
    const stays = /^An earlier run has left ".*", and whether it still goes on cannot be told/;
    assert.match((await openAfter(`${folder}/out`)).join(), stays);
    await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, `{"host":"elsewhere"}`);
    assert.match((await openAfter(`${folder}/out`)).join(), stays);
    const lockless: Disk = { ...disk, lock: () => Promise.resolve("impossible" as const) };
    await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, "{}");
    assert.match((await openAfter(`${folder}/out`, { disk: lockless })).join(), stays);
    assert.deepEqual(names(folder), ["out.sluice-partial-0123abcd"]);
    // Folders of others, links, and files are none of ours.
    await Deno.remove(stage, { recursive: true });
    await Deno.mkdir(`${folder}/out.sluice-partial-mine`);
    await Deno.writeTextFile(`${folder}/a.sluice-partial-0123abcd`, "");
    if (Deno.build.os !== "windows") {
      await Deno.symlink(folder, `${folder}/b.sluice-partial-0123abcd`);
    }
    assert.deepEqual(await openAfter(`${folder}/out`), []);
  }));

Deno.test("a file system without locks is no hindrance, and what is left there is named", () =>
  withFolder(async (folder) => {
    const lockless: Disk = { ...disk, lock: () => Promise.resolve("impossible" as const) };
    await using sink = await openFolderSink(`${folder}/out`, { disk: lockless });
    assert.deepEqual(names(`${folder}/${names(folder)[0]}`), [OWNER_FILE, "new"]);
    await sink.commit();
    assert.deepEqual(names(folder), ["out"]);
  }));

Deno.test("a file system that grants a lock to all who ask has none: a run that goes on is not disturbed", () =>
  withFolder(async (folder) => {
    const { tryLock } = Deno.FsFile.prototype;
    Deno.FsFile.prototype.tryLock = () => Promise.resolve(true);
    try {
      await using sink = await openFolderSink(`${folder}/out`, { resume: true });
      await assert.rejects(openFolderSink(`${folder}/out`, { resume: true }), /another run is/);
      await sink.commit();
      assert.deepEqual(names(folder), ["out"]);
    } finally {
      Deno.FsFile.prototype.tryLock = tryLock;
    }
  }));

Deno.test("where there are no locks, the process that the owner file names is looked for", () =>
  withFolder(async (folder) => {
    const alive = new Map([[1, true], [2, false]]);
    const lockless: Disk = {
      ...disk,
      hostName: () => "here",
      lock: () => Promise.resolve("impossible" as const),
      isAlive: (process) => Promise.resolve(alive.get(process)),
    };
    const stage = `${folder}/out.sluice-partial-0123abcd`;
    const told = async (owner: object) => {
      await Deno.mkdir(stage, { recursive: true });
      await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, JSON.stringify(owner));
      return (await openAfter(`${folder}/out`, { disk: lockless })).join();
    };
    assert.equal(await told({ host: "here", process: 1 }), "");
    // Nobody tells whether it is alive, or not of this machine.
    for (const owner of [{ host: "here", process: 3 }, { host: "there", process: 2 }]) {
      assert.match(await told(owner), /whether it still goes on cannot be told/);
    }
    assert.match(await told({ host: "here", process: 2 }), /^Removed /);
  }));

Deno.test("what cannot be removed is told, and stops nothing", () =>
  withFolder(async (folder) => {
    const stage = `${folder}/out.sluice-partial-0123abcd`;
    await Deno.mkdir(stage);
    await Deno.writeTextFile(`${stage}/${OWNER_FILE}`, "{}");
    const stubborn: Disk = {
      ...disk,
      remove: (path, options) =>
        path === stage ? disk.remove(`${stage}/none`) : disk.remove(path, options),
    };
    assert.match((await openAfter(`${folder}/out`, { disk: stubborn })).join(), /^Cannot remove /);
    assert.deepEqual(names(folder), ["out.sluice-partial-0123abcd"]);
  }));

Deno.test("temporary folders of killed processes are removed, but for finished checkpoints; those of others are not touched", () =>
  withFolder(async (folder) => {
    const env = { TMPDIR: folder, TMP: folder };
    const code = `import { openTemporary } from ${module("io/temporary.ts")};
      const made = await openTemporary();
      Deno.mkdirSync(made.path + "/" + (Deno.args[0] ?? "hidden"));
      if (Deno.args[0]) Deno.writeTextFileSync(made.path + "/" + Deno.args[0] + "/${RECORD_FILE}", "{}");
      console.log("held"); setInterval(() => {}, 1000);`;
    const program = `${folder}/hold.ts`;
    await Deno.writeTextFile(program, code);
    const children = [];
    for (const args of [[], ["me-int4"], []]) {
      const child = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "-A",
          "--quiet",
          `--config=${fileURLToPath(new URL("../deno.json", import.meta.url))}`,
          program,
          ...args,
        ],
        env,
        stdout: "piped",
      }).spawn();
      const reader = child.stdout.getReader();
      await reader.read();
      await reader.cancel();
      children.push(child);
    }
    const [dead, published, alive] = children;
    await Deno.mkdir(`${folder}/sluice-other`);
    await Deno.remove(program);
    assert.equal(names(folder).length, 4);
    await kill(dead!);
    await kill(published!);
    const told: string[] = [];
    await sweepTemporary(folder, (event) => {
      assert.ok(event.type === "warning");
      told.push(event.message);
    });
    told.sort();
    assert.equal(told.length, 2);
    assert.match(
      told[0]!,
      /^A run was killed before it could publish its checkpoint, which is in ".*\/me-int4": publish it, or remove it\.$/,
    );
    assert.match(told[1]!, /^Removed "/);
    assert.equal(names(folder).length, 3);
    await kill(alive!);
  }));

Deno.test("a temporary folder goes when it is disposed of, unless it is to be kept; then nobody sweeps it", async () => {
  let path = "";
  {
    await using folder = await openTemporary();
    path = folder.path;
    assert.deepEqual(names(path), [OWNER_FILE]);
  }
  assert.equal(await disk.stat(path), undefined);
  {
    await using folder = await openTemporary();
    path = folder.path;
    await folder.keep();
  }
  assert.deepEqual(names(path), []);
  await Deno.remove(path);
});

Deno.test("a process that has ended is not alive, though its parent has not asked for it yet", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  // A shell that becomes another program, which asks for nobody; and its child, which ends then.
  const ending = "until grep -q sleep /proc/$PPID/comm; do :; done";
  const parent = new Deno.Command("sh", {
    args: ["-c", `sh -c '${ending}' & echo $!; exec sleep 30`],
    stdout: "piped",
  }).spawn();
  const reader = parent.stdout.getReader();
  const child = Number(new TextDecoder().decode((await reader.read()).value));
  const isThere = async () => (await Deno.readTextFile(`/proc/${child}/stat`)).includes(") Z");
  while (!(await isThere())) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(await disk.isAlive(child), false);
  assert.equal(await disk.isAlive(parent.pid), true);
  assert.equal(await disk.isAlive(2 ** 30), false);
  await reader.cancel();
  parent.kill("SIGKILL");
  await parent.status;
});
