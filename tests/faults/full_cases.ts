/**
 * D3: disks that are really full: file systems in memory that have too little room by more and
 * more, on each of which the same command goes on until there is enough. And writes that the system
 * takes only a part of at a time.
 */
import assert from "node:assert/strict";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { SpaceError } from "../../src/errors.ts";
import { disk as machine } from "../../src/io/disk.ts";
import { attempt, outcomeOf } from "../resume_given.ts";
import { folder } from "../run_given.ts";
import { randoms } from "../tiny.ts";
import { CALIBRATED, ROUNDED, type Suite } from "./suite.ts";

async function mount(...words: string[]): Promise<{ readonly success: boolean; why: string }> {
  const { success, stderr } = await new Deno.Command("mount", { args: words }).output();
  return { success, why: new TextDecoder().decode(stderr).trim() };
}

async function unmount(path: string): Promise<void> {
  const { success } = await new Deno.Command("umount", { args: [path] }).output();
  assert.ok(success, `cannot unmount ${path}`);
}

/** Why no file system can be mounted here. */
const UNMOUNTABLE: string | undefined = await (async () => {
  if (Deno.build.os !== "linux") return "only Linux has file systems in memory";
  await using at = await folder();
  const { success, why } = await mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", at.path);
  if (success) await unmount(at.path);
  return success ? undefined : `a file system cannot be mounted: ${why}`;
})();

/** Kilobytes that there are at first, and that are added each time it was too little. */
const ROOM = { first: 256, more: 512 };
const WORKS = [ROUNDED, CALIBRATED];

/** The disk is really full. */
export const D3: Suite = {
  id: "D3",
  title: "a disk that is full, and is given more room again and again",
  share: 1,
  absent: UNMOUNTABLE,
  async open() {
    await using undo = new AsyncDisposableStack();
    const backend = undo.use(await openWasm({ threads: 1 }));
    const at = undo.use(await folder());
    const kept = undo.move();
    return {
      // Where Sluice may ask for the room, and where it finds out.
      count: 2 * WORKS.length,
      async run(index) {
        const work = { ...WORKS[index >> 1]!, backend };
        const disk = index % 2 === 0
          ? machine
          : { ...machine, freeBytes: () => Promise.resolve(undefined) };
        const whole = `${at.path}/whole-${index}`;
        const report = await attempt({ ...work, out: whole });
        const expected = await outcomeOf(whole, report);
        await using place = await folder();
        const path = await Deno.realPath(place.path);
        let size = ROOM.first;
        const { success } = await mount("-t", "tmpfs", "-o", `size=${size}k`, "tmpfs", path);
        assert.ok(success);
        try {
          const out = `${path}/out`;
          for (let full = 0;; full++) {
            try {
              assert.deepEqual(
                await outcomeOf(out, await attempt({ ...work, out }, { disk })),
                expected,
              );
              assert.ok(full > 2, `it was full ${full} times`);
              return `whole after ${full} times full`;
            } catch (error) {
              assert.ok(error instanceof SpaceError, String(error));
              assert.match(error.message, /^Cannot .*(the disk is full|the disk has .* free)\. /);
              assert.ok(full < 60, "it is never enough");
            }
            size += ROOM.more;
            assert.ok((await mount("-o", `remount,size=${size}k`, path)).success);
          }
        } finally {
          await unmount(path);
        }
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};

/** The system takes a part of what it is given to write, and gives a part of what is read. */
export const D5: Suite = {
  id: "D5",
  title: "the system writes and reads only a part at a time",
  share: 1,
  async open(seed) {
    await using undo = new AsyncDisposableStack();
    const backend = undo.use(await openWasm({ threads: 1 }));
    const at = undo.use(await folder());
    const work = { ...CALIBRATED, backend };
    const whole = `${at.path}/whole`;
    const expected = await outcomeOf(whole, await attempt({ ...work, out: whole }));
    const kept = undo.move();
    return {
      count: 8,
      async run(index) {
        const next = randoms(seed * 31 + index);
        const some = (bytes: Uint8Array) =>
          bytes.subarray(0, Math.ceil(bytes.length * (next() + 1) / 2) || 1);
        const { write, read } = Deno.FsFile.prototype;
        let partial = 0;
        Deno.FsFile.prototype.write = function (bytes) {
          partial++;
          return write.call(this, some(bytes));
        };
        Deno.FsFile.prototype.read = function (bytes) {
          return read.call(this, some(bytes));
        };
        try {
          const out = `${at.path}/out-${index}`;
          assert.deepEqual(await outcomeOf(out, await attempt({ ...work, out })), expected);
        } finally {
          Object.assign(Deno.FsFile.prototype, { write, read });
        }
        assert.ok(partial > 20);
        return "made";
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
