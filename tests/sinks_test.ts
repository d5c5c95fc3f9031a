/**
 * Outputs: nothing is there before it is whole, nothing is left of one that failed, and nothing is
 * written anywhere else.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { RequestError, SpaceError } from "../src/errors.ts";
import { type Disk, disk } from "../src/io/disk.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import type { Sink } from "../src/sink.ts";

const BYTES = Uint8Array.of(1, 2, 3, 4, 5);

/** Run a test in an empty folder, and see that it leaves no partial output there. */
async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "sluice_sink_" });
  try {
    await test(folder);
    assert.deepEqual((await tree(folder)).filter((path) => path.includes("sluice-partial")), []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** All paths in a folder. */
async function tree(folder: string, prefix = ""): Promise<string[]> {
  const paths: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    paths.push(prefix + name);
    if (isDirectory) paths.push(...await tree(`${folder}/${name}`, `${prefix}${name}/`));
  }
  return paths.sort();
}

async function put(sink: Sink, path: string, bytes = BYTES): Promise<void> {
  await using file = await sink.create(path, bytes.length);
  await file.write(0, bytes);
  await file.commit();
}

Deno.test("files appear under the output's name when it is committed, not before", async () => {
  await withFolder(async (folder) => {
    await using sink = await openFolderSink(`${folder}/out`);
    await Promise.all([put(sink, "a"), put(sink, "sub/b"), put(sink, "sub/deep/c")]);
    await using file = await sink.create("pieces", 5);
    await Promise.all([file.write(3, BYTES.subarray(3)), file.write(0, BYTES.subarray(0, 3))]);
    await file.commit();
    await put(sink, "empty", new Uint8Array(0));
    assert.ok(!(await tree(folder)).includes("out"));
    await sink.commit();
    assert.deepEqual(await tree(folder), [
      "out",
      "out/a",
      "out/empty",
      "out/pieces",
      "out/sub",
      "out/sub/b",
      "out/sub/deep",
      "out/sub/deep/c",
    ]);
    for (const path of ["a", "sub/b", "sub/deep/c", "pieces"]) {
      assert.deepEqual(await Deno.readFile(`${folder}/out/${path}`), BYTES);
    }
  });
});

Deno.test("a sink that is disposed without commit leaves nothing, not even folders it made above", async () => {
  await withFolder(async (folder) => {
    {
      await using sink = await openFolderSink(`${folder}/made/for/out`);
      await put(sink, "a");
      await sink.create("open", 1000);
      assert.ok((await tree(folder)).length > 3);
    }
    assert.deepEqual(await tree(folder), []);
  });
});

Deno.test("nobody else may enter a partial output, and a finished one has plain rights", async () => {
  if (Deno.build.os === "windows") return;
  await withFolder(async (folder) => {
    await using sink = await openFolderSink(`${folder}/out`);
    const [stage] = await tree(folder);
    assert.match(stage!, /^out\.sluice-partial-[0-9a-f]{8}$/);
    assert.equal((await Deno.stat(`${folder}/${stage}`)).mode! & 0o777, 0o700);
    await put(sink, "a");
    await sink.commit();
    await Deno.mkdir(`${folder}/plain`);
    const mode = async (path: string) => (await Deno.stat(`${folder}/${path}`)).mode;
    assert.equal(await mode("out"), await mode("plain"));
  });
});

Deno.test("an output that exists is refused, an empty folder is taken", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/full`);
    await Deno.writeTextFile(`${folder}/full/x`, "keep");
    await assert.rejects(
      openFolderSink(`${folder}/full`),
      (error) => error instanceof RequestError && /not empty.*`overwrite`/.test(error.message),
    );
    await assert.rejects(openFolderSink(`${folder}/full/x`), /is not a folder/);
    await assert.rejects(openFolderSink(`${folder}/full/x/y`), /is not a folder/);
    await assert.rejects(openFolderSink("/"), /root of the disk/);
    await Deno.mkdir(`${folder}/empty`);
    await using sink = await openFolderSink(`${folder}/empty`);
    await put(sink, "a");
    await sink.commit();
    assert.deepEqual(await tree(folder), ["empty", "empty/a", "full", "full/x"]);
  });
});

Deno.test("overwrite replaces an old checkpoint as a whole, and only when the new one is whole", async () => {
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/out`);
    await Deno.writeTextFile(`${folder}/out/model-00001-of-00001.safetensors`, "old");
    await Deno.writeTextFile(`${folder}/out/stale.json`, "old");
    const before = await tree(folder);
    {
      await using sink = await openFolderSink(`${folder}/out`, { overwrite: true });
      await put(sink, "a");
    }
    assert.deepEqual(await tree(folder), before);
    await using sink = await openFolderSink(`${folder}/out`, { overwrite: true });
    await put(sink, "a");
    await sink.commit();
    assert.deepEqual(await tree(folder), ["out", "out/a"]);
  });
});

Deno.test("overwrite does not replace folders that hold more than a checkpoint", async () => {
  const precious: Record<string, RegExp> = {
    "notes.txt": /does not look like a checkpoint/,
    ".git/config": /holds "\.git"/,
    "photos/1.jpg": /holds "photos"/,
    ".env": /holds "\.env"/,
  };
  for (const [path, says] of Object.entries(precious)) {
    await withFolder(async (folder) => {
      const place = `${folder}/out/${path}`;
      await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(place, "x");
      if (path !== "notes.txt") await Deno.writeTextFile(`${folder}/out/m.safetensors`, "x");
      const before = await tree(folder);
      await assert.rejects(
        openFolderSink(`${folder}/out`, { overwrite: true }),
        (error) => error instanceof RequestError && says.test(error.message),
      );
      assert.deepEqual(await tree(folder), before);
    });
  }
});

Deno.test("a folder that fills up under the output's name meanwhile is not replaced", async () => {
  await withFolder(async (folder) => {
    await using sink = await openFolderSink(`${folder}/out`);
    await put(sink, "a");
    await Deno.mkdir(`${folder}/out`);
    await Deno.writeTextFile(`${folder}/out/x`, "keep");
    await assert.rejects(sink.commit(), RequestError);
    await sink[Symbol.asyncDispose]();
    assert.deepEqual(await tree(folder), ["out", "out/x"]);
  });
});

Deno.test("an output that has the name of one that is not done, or lies within one, is refused", async () => {
  await withFolder(async (folder) => {
    for (const path of ["out.sluice-partial", "out.SLUICE-partial-0123abcd/in"]) {
      await assert.rejects(
        openFolderSink(`${folder}/${path}`),
        (error) =>
          error instanceof RequestError && /is where a run leaves its files/.test(error.message),
      );
    }
    assert.deepEqual(await tree(folder), []);
  });
});

Deno.test("a path through a link is refused", async () => {
  if (Deno.build.os === "windows") return;
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/real`);
    await Deno.symlink(`${folder}/real`, `${folder}/link`);
    await Deno.symlink(`${folder}/nowhere`, `${folder}/dangling`);
    for (const path of ["link", "link/out", "link/a/b", "dangling", "dangling/out"]) {
      await assert.rejects(
        openFolderSink(`${folder}/${path}`),
        (error) => error instanceof RequestError && /is a link/.test(error.message),
      );
    }
    assert.deepEqual(await tree(folder), ["dangling", "link", "real"]);
  });
});

Deno.test("a folder that is exchanged for a link meanwhile is noticed before anything gets its name", async () => {
  if (Deno.build.os === "windows") return;
  await withFolder(async (folder) => {
    await Deno.mkdir(`${folder}/home`);
    await Deno.mkdir(`${folder}/trap`);
    const sink = await openFolderSink(`${folder}/home/out`);
    await put(sink, "a");
    await Deno.rename(`${folder}/home`, `${folder}/moved`);
    await Deno.symlink(`${folder}/trap`, `${folder}/home`);
    await assert.rejects(sink.commit(), /is a link/);
    assert.deepEqual(await tree(`${folder}/trap`), []);
    await Deno.remove(`${folder}/home`);
    await Deno.rename(`${folder}/moved`, `${folder}/home`);
    await sink[Symbol.asyncDispose]();
    assert.deepEqual(await tree(folder), ["home", "trap"]);
  });
});

Deno.test("create() refuses names that lead out of the folder or are taken", async () => {
  await withFolder(async (folder) => {
    await using sink = await openFolderSink(`${folder}/out`);
    await put(sink, "config.json");
    const hostile = [
      "",
      "..",
      "../x",
      "a/../../x",
      "/tmp/x",
      "a\\b",
      "C:x",
      "%2e%2e/x",
      "a\0",
      "a.",
      "nul",
      "x".repeat(300),
      "config.json",
      "Config.JSON",
    ];
    for (const name of hostile) {
      await assert.rejects(sink.create(name, 1), RangeError, JSON.stringify(name));
    }
    assert.deepEqual((await tree(folder)).length, 4);
  });
});

Deno.test("write() and commit() hold to the planned size", async () => {
  await withFolder(async (folder) => {
    await using sink = await openFolderSink(`${folder}/out`);
    await using file = await sink.create("a", 10);
    for (const offset of [6, -1, 0.5, NaN, 11]) {
      await assert.rejects(file.write(offset, BYTES), RangeError);
    }
    await file.write(5, BYTES);
    await assert.rejects(file.commit(), /5 of 10 bytes were not written/);
    await assert.rejects(sink.commit(), /"a" is not committed/);
    await file.write(1, BYTES);
    await assert.rejects(file.commit(), /1 of 10 bytes were not written/);
    await file.write(0, BYTES);
    await file.commit();
    await assert.rejects(file.write(0, BYTES), /it is closed/);
    await sink.commit();
    await assert.rejects(sink.commit(), /committed already/);
    await assert.rejects(sink.create("b", 1), /committed already/);
    assert.deepEqual(
      await Deno.readFile(`${folder}/out/a`),
      Uint8Array.of(1, 2, 3, 4, 5, 5, 2, 3, 4, 5),
    );
  });
});

Deno.test("pieces in any order and overlap make the file that the last writer of each byte meant", async () => {
  await withFolder(async (folder) => {
    const pieces = fc.array(fc.tuple(fc.nat({ max: 40 }), fc.uint8Array({ maxLength: 24 })), {
      maxLength: 12,
    });
    let round = 0;
    await fc.assert(
      fc.asyncProperty(pieces, async (list) => {
        const expected = new Uint8Array(64), written = new Set<number>();
        await using sink = await openFolderSink(`${folder}/out${round++}`);
        await using file = await sink.create("a", 64);
        for (const [offset, bytes] of list) {
          await file.write(offset, bytes);
          expected.set(bytes, offset);
          for (let i = 0; i < bytes.length; i++) written.add(offset + i);
        }
        if (written.size < 64) {
          await assert.rejects(file.commit(), new RegExp(`${64 - written.size} of 64 bytes`));
          return;
        }
        await file.commit();
        await sink.commit();
        assert.deepEqual(await Deno.readFile(`${folder}/out${round - 1}/a`), expected);
      }),
      {
        numRuns: 60,
        examples: [[[[0, new Uint8Array(24)], [40, new Uint8Array(24)], [
          20,
          new Uint8Array(24).fill(7),
        ]]]],
      },
    );
  });
});

Deno.test("a disk with too little room is told before anything is written", async () => {
  await withFolder(async (folder) => {
    const small: Disk = { ...disk, freeBytes: () => Promise.resolve(100) };
    await using sink = await openFolderSink(`${folder}/out`, { disk: small });
    await using first = await sink.create("a", 60);
    await assert.rejects(
      sink.create("b", 50),
      (error) =>
        error instanceof SpaceError &&
        /110 B are still to be written.*100 B free/.test(error.message),
    );
    await first.write(0, new Uint8Array(20));
    await sink.create("c", 50);
  });
});

/** A disk whose n-th change of something fails as a full disk does. */
function failingAt(n: number): Disk {
  let calls = 0;
  const step = async <T>(path: string, call: () => Promise<T>): Promise<T> => {
    if (++calls === n) {
      throw new SpaceError(`Cannot write "${path}": the disk is full.`, { path });
    }
    return await call();
  };
  return {
    ...disk,
    makeFolder: (path, options) => step(path, () => disk.makeFolder(path, options)),
    rename: (from, to) => step(from, () => disk.rename(from, to)),
    syncFolder: (path) => step(path, () => disk.syncFolder(path)),
    create: (path, size) =>
      step(path, async () => {
        const writer = await disk.create(path, size);
        return {
          write: (offset, bytes) => step(path, () => writer.write(offset, bytes)),
          sync: () => step(path, () => writer.sync()),
          [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
        };
      }),
  };
}

Deno.test("a fault at any step leaves what was there before, or the finished output, and nothing else", async () => {
  let finished = false;
  for (let n = 1; !finished; n++) {
    assert.ok(n < 40);
    await withFolder(async (folder) => {
      const out = `${folder}/made/out`;
      await Deno.mkdir(out, { recursive: true });
      await Deno.writeTextFile(`${out}/old.safetensors`, "old");
      const before = await tree(folder);
      try {
        await using sink = await openFolderSink(out, { overwrite: true, disk: failingAt(n) });
        await put(sink, "sub/a");
        await sink.commit();
        finished = true;
      } catch (error) {
        assert.ok(error instanceof SpaceError, String(error));
      }
      const after = await tree(folder);
      const whole = ["made", "made/out", "made/out/sub", "made/out/sub/a"];
      assert.deepEqual(
        after,
        finished || after.includes("made/out/sub/a") ? whole : before,
        `fault at step ${n}`,
      );
    });
  }
});

Deno.test("faults of the machine's disk are sentences", async () => {
  await withFolder(async (folder) => {
    await assert.rejects(
      disk.open(`${folder}/nothing`),
      (error) =>
        error instanceof SpaceError &&
        /Cannot open ".*nothing": the system says/.test(error.message),
    );
    await using file = await disk.create(`${folder}/a`, 3);
    await file.sync();
    await assert.rejects(disk.create(`${folder}/a`, 3), SpaceError);
    await assert.rejects(disk.makeFolder(`${folder}/a`), SpaceError);
    await assert.rejects(disk.list(`${folder}/a`), SpaceError);
    assert.equal(await disk.stat(`${folder}/a/b`), undefined);
    assert.equal((await disk.stat(`${folder}/a`))!.size, 3);
    assert.ok((await disk.freeBytes(folder))! > 0);
    await using reader = await disk.open(`${folder}/a`);
    assert.throws(() => reader.read(0, 4), RangeError);
    assert.equal((await reader.read(3, 3)).length, 0);
  });
});

Deno.test("a file that the system cannot make that large is SpaceError, and is not left half made", async () => {
  await withFolder(async (folder) => {
    const boundless: Disk = { ...disk, freeBytes: () => Promise.resolve(undefined) };
    await using sink = await openFolderSink(`${folder}/out`, { disk: boundless });
    await assert.rejects(sink.create("a", Number.MAX_SAFE_INTEGER), SpaceError);
    await put(sink, "b");
    await sink.commit();
    assert.deepEqual(await tree(folder), ["out", "out/b"]);
  });
});

const scoped = Deno.makeTempDirSync({ prefix: "sluice_scoped_" });

Deno.test({
  name: "an output needs no permission but to read and write the folder it belongs in",
  permissions: { read: [scoped], write: [scoped] },
  fn: async () => {
    {
      await using sink = await openFolderSink(`${scoped}/made/out`);
      await put(sink, "a");
      await sink.commit();
    }
    await using again = await openFolderSink(`${scoped}/other`);
    await put(again, "a");
    await again[Symbol.asyncDispose]();
    assert.deepEqual(await tree(scoped), ["made", "made/out", "made/out/a"]);
    await assert.rejects(
      openFolderSink("/elsewhere/out"),
      (error) => error instanceof SpaceError && /Requires read access/.test(error.message),
    );
    await Deno.remove(scoped, { recursive: true });
  },
});

Deno.test("a large file of an output begins to be synced while it is written, and is whole", async () => {
  await withFolder(async (folder) => {
    const asked: unknown[] = [];
    const watched: Disk = {
      ...disk,
      create: (path, size, options) => {
        if (path.endsWith("/large")) asked.push(options);
        return disk.create(path, size, options);
      },
    };
    await using sink = await openFolderSink(`${folder}/out`, { disk: watched });
    const part = new Uint8Array(24 * 2 ** 20);
    {
      await using file = await sink.create("large", 3 * part.length);
      for (const [i, byte] of [7, 8, 9].entries()) {
        await file.write(i * part.length, part.fill(byte));
      }
      await file.commit();
    }
    await sink.commit();
    assert.deepEqual(asked, [{ lasting: true }]);
    const written = await Deno.readFile(`${folder}/out/large`);
    assert.equal(written.length, 3 * part.length);
    for (let i = 0; i < written.length; i += 4096) {
      assert.equal(written[i], 7 + Math.floor(i / part.length));
    }
  });
});
