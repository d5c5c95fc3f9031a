/**
 * X1: several at once open one output, where nothing is yet and where a stopped run has left
 * something. One of them has it at most, the others are told that another run is writing it, and
 * what was left is there still for whoever comes next.
 */
import assert from "node:assert/strict";
import { RequestError } from "../../src/errors.ts";
import { stageOf } from "../../src/sinks/stage.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { folder } from "../run_given.ts";
import type { Suite } from "./suite.ts";

const ROUNDS = 20;

/** Several at once. */
export const X1: Suite = {
  id: "X1",
  title: "2, 4 and 8 at once open one output",
  share: 30,
  open() {
    const cases = [2, 4, 8].flatMap((count) =>
      [false, true].flatMap((left) => Array.from({ length: ROUNDS }, () => ({ count, left })))
    );
    return Promise.resolve({
      count: cases.length,
      async run(index) {
        const { count, left } = cases[index]!;
        await using place = await folder();
        const out = `${await Deno.realPath(place.path)}/out`;
        const open = () => openFolderSink(out, { resume: true });
        if (left) {
          await using sink = await open();
          for (const record of [1, 2, 3]) await sink.resumption!.append(record);
        }
        const all = await Promise.allSettled(Array.from({ length: count }, open));
        const opened = all.flatMap((one) => one.status === "fulfilled" ? [one.value] : []);
        for (const one of all) {
          if (one.status === "fulfilled") continue;
          assert.ok(one.reason instanceof RequestError, String(one.reason));
          assert.match(one.reason.message, /^Cannot write to .*another run is writing it\. Wait/);
        }
        assert.ok(opened.length <= 1, `${opened.length} have it`);
        for (const sink of opened) {
          assert.equal(sink.resumption!.records.length, left ? 3 : 0);
          await sink[Symbol.asyncDispose]();
        }
        await using next = await open();
        assert.equal(next.resumption!.records.length, left ? 3 : 0);
        assert.ok((await Deno.stat(stageOf(out))).isDirectory);
        return opened.length === 1 ? "one had it" : "nobody had it";
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
};
