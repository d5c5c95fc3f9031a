/**
 * P1 and K1: the power fails, or the process ends, after any operation of a run on its disk. The
 * same command makes what an uninterrupted run makes, and does again no unit of which the run had
 * been told that it is saved.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { disk as machine } from "../../src/io/disk.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { attempt, outcomeOf, type Work } from "../resume_given.ts";
import { folder } from "../run_given.ts";
import { randoms } from "../tiny.ts";
import { powerFail, type Survival, SURVIVALS } from "./power.ts";
import { CALIBRATED, ROUNDED, type Suite } from "./suite.ts";
import { twinOf } from "./twin.ts";

/** A run whose operations are on record. */
async function recorded(work: Omit<Work, "backend" | "out">, { overwrite = false, seed = 1 } = {}) {
  await using undo = new AsyncDisposableStack();
  const backend = undo.use(await openWasm({ threads: 1 }));
  const at = undo.use(await folder());
  const base = await Deno.realPath(at.path);
  const whole = { ...work, backend, out: `${base}/made/here/out` };
  const twin = twinOf(base);
  if (overwrite) {
    const before = { ...whole, options: { ...work.options, scheme: "W8A16" } };
    await attempt(before, { disk: twin.disk });
  }
  const settled = twin.log.length;
  /** How many units were saved when so many operations were done. */
  const saves: number[] = [];
  const report = await attempt(whole, {
    disk: twin.disk,
    overwrite,
    change: (resumption) => ({
      async append(record) {
        await resumption.append(record);
        const { units = [] } = record as { units?: readonly unknown[] };
        for (const _ of "command" in (record as object) ? [] : units) saves.push(twin.log.length);
      },
    }),
  });
  const ended = twin.log.length;
  const expected = await outcomeOf(whole.out, report);
  const kept = undo.move();
  return {
    count: ended - settled + 1,
    /** Have the power fail, and do the same again. */
    async run(index: number, survival: Survival): Promise<string> {
      const done = settled + index;
      await using disk = await folder();
      const path = await Deno.realPath(disk.path);
      const next = randoms(seed * 7919 + index);
      await powerFail(twin.log, path, { at: done, settled, survival, next });
      const out = `${path}/made/here/out`;
      const saved = saves.filter((log) => log <= done).length;
      let [resumed, told] = [0, ""];
      const named: string[] = [];
      const ready = index === twin.log.length - settled;
      if (ready) assert.ok((await Deno.stat(out)).isDirectory, "what was committed is lost");
      if (!overwrite && await machine.lstat(out)) {
        // It was committed: the name is there with all that it is the name of.
        assert.deepEqual(await outcomeOf(out, report), expected);
        // What else the run had there, the next one removes, or names where it cannot be judged.
        await using _ = await openFolderSink(`${out}-next`, {
          report: (event) => void (event.type === "warning" && named.push(event.message)),
        });
        told = "made";
      } else {
        const again = await attempt({ ...whole, out }, {
          overwrite,
          report(event) {
            if (event.type === "resumed") resumed = event.units;
            if (event.type === "warning") named.push(event.message);
          },
        });
        assert.deepEqual(await outcomeOf(out, again), expected);
        if (!overwrite) {
          assert.ok(resumed >= saved, `${saved} units were saved, it went on after ${resumed}`);
        }
        told = resumed > 0 ? "went on" : "began anew";
      }
      const left = [...Deno.readDirSync(join(path, "made/here"))].map(({ name }) => name)
        .filter((name) => name !== "out");
      // After a power failure an owner's name may be gone before what it owned.
      assert.ok(survival === "any" || left.length === 0, left.join());
      for (const name of left) assert.ok(named.some((text) => text.includes(`${name}"`)), name);
      return told;
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

const RUNS = [
  { work: ROUNDED, overwrite: false },
  { work: CALIBRATED, overwrite: false },
  { work: ROUNDED, overwrite: true },
] as const;

/** A suite of some survivals, at each operation of each run. */
function suite(
  { id, title, share, survivals }:
    & Pick<Suite, "id" | "title" | "share">
    & { readonly survivals: readonly Survival[] },
): Suite {
  return {
    id,
    title,
    share,
    async open(seed) {
      await using undo = new AsyncDisposableStack();
      const runs = [];
      for (const { work, overwrite } of RUNS) {
        runs.push(undo.use(await recorded(work, { overwrite, seed })));
      }
      const cases = runs.flatMap(({ count, run }) =>
        Array.from(
          { length: count },
          (_, i) => survivals.map((survival) => () => run(i, survival)),
        ).flat()
      );
      const kept = undo.move();
      return {
        count: cases.length,
        run: (index) => cases[index]!(),
        [Symbol.asyncDispose]: () => kept.disposeAsync(),
      };
    },
  };
}

/** The process ends: all that it did is there. */
export const K1: Suite = suite({
  id: "K1",
  title: "a process ends after any operation on its disk",
  share: 8,
  survivals: ["all"],
});

/** The power fails: what was not synced may be lost, torn, or there without what came before. */
export const P1: Suite = suite({
  id: "P1",
  title: "the power fails after any operation on the disk",
  share: 16,
  survivals: SURVIVALS.filter((survival) => survival !== "all"),
});
