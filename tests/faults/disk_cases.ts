/**
 * D1 and D2: an operation on the disk fails, once or from then on. The run ends with a sentence, or
 * does without; nothing half made has the output's name; and once the disk is well, the same
 * command makes what it would have made.
 */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { RequestError, SpaceError } from "../../src/errors.ts";
import { disk as machine } from "../../src/io/disk.ts";
import type { RunReport } from "../../src/report/run_report.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { attempt, outcomeOf } from "../resume_given.ts";
import { folder } from "../run_given.ts";
import { CALIBRATED, type Suite } from "./suite.ts";
import { type Failing, twinOf } from "./twin.ts";

type Kind = Pick<Failing, "fault" | "of" | "persistent">;

/** A fault as people are told of it; what threw while it was thrown is beside the point. */
function firstOf(error: unknown): unknown {
  return error instanceof SuppressedError ? firstOf(error.suppressed) : error;
}

function suite(
  { id, title, share, kinds }:
    & Pick<Suite, "id" | "title" | "share">
    & { readonly kinds: readonly Kind[] },
): Suite {
  return {
    id,
    title,
    share,
    async open() {
      await using undo = new AsyncDisposableStack();
      const backend = undo.use(await openWasm({ threads: 1 }));
      const at = undo.use(await folder());
      const base = await Deno.realPath(at.path);
      const whole = { ...CALIBRATED, backend, out: `${base}/whole/out` };
      const { disk, asked } = twinOf(base);
      const report = await attempt(whole, { disk });
      const expected = await outcomeOf(whole.out, report);
      const cases = kinds.flatMap((kind) =>
        Array.from({ length: asked[kind.of] }, (_, at): Failing => ({ ...kind, at }))
      );
      const kept = undo.move();
      return {
        count: cases.length,
        async run(index) {
          await using place = await folder();
          const out = `${await Deno.realPath(place.path)}/made/out`;
          const work = { ...whole, out };
          const twin = twinOf(base, cases[index]!);
          const same = async (report: RunReport) => {
            assert.deepEqual(await outcomeOf(out, report), expected);
          };
          let became = "did without";
          try {
            await same(await attempt(work, { disk: twin.disk }));
          } catch (thrown) {
            const error = firstOf(thrown);
            assert.ok(error instanceof SpaceError || error instanceof RequestError, String(error));
            assert.match(error.message, /^Cannot [^\n]*\.$/);
            const made = (await machine.lstat(out))?.kind === "folder";
            became = made ? "made all the same" : "began anew";
          }
          assert.ok(twin.failed > 0 || became === "did without");
          if (became === "made all the same") await same(report);
          if (became === "began anew") {
            await same(
              await attempt(work, {
                report(event) {
                  if (event.type === "resumed") became = "went on";
                },
              }),
            );
          }
          {
            await using _ = await openFolderSink(`${out}-next`);
          }
          assert.deepEqual([...Deno.readDirSync(dirname(out))].map(({ name }) => name), ["out"]);
          return became;
        },
        [Symbol.asyncDispose]: () => kept.disposeAsync(),
      };
    },
  };
}

/** The disk is full. */
export const D1: Suite = suite({
  id: "D1",
  title: "the disk is full at any write, once or from then on",
  share: 8,
  kinds: [false, true].map((persistent) => ({ fault: "ENOSPC", of: "writes", persistent })),
});

/** The disk is broken, or somebody changes rights. */
export const D2: Suite = suite({
  id: "D2",
  title: "any operation on the disk fails: input/output errors once, missing rights from then on",
  share: 8,
  kinds: [
    { fault: "EIO", of: "all", persistent: false },
    { fault: "EACCES", of: "all", persistent: true },
  ],
});
