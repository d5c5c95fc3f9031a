/**
 * X1P: several processes make one output at the same moment, where nothing is yet and where a
 * stopped run has left something, and where the file system's locks keep nobody out. One of them
 * makes it at most, the others are told why not, and what is there in the end is whole.
 */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { disk } from "../../src/io/disk.ts";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { attempt } from "../resume_given.ts";
import { bytesOf, folder } from "../run_given.ts";
import type { Given, Told } from "./rival.ts";
import { ROUNDED, type Suite } from "./suite.ts";

const RIVAL = fileURLToPath(new URL("rival.ts", import.meta.url));
const ROUNDS = 20;
const REFUSED =
  /^Cannot write to .*(another run is writing it\. Wait|the folder exists and is not empty|still goes on cannot be told)/;

/** A process that waits for the others. */
async function begin(given: Given) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", RIVAL, JSON.stringify(given)],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(child.stderr).text();
  const lines = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  assert.equal((await lines.read()).value, "ready\n");
  return {
    async go(): Promise<Told> {
      const writer = child.stdin.getWriter();
      await writer.write(new Uint8Array([10]));
      await writer.close();
      let text = "";
      for (let part = await lines.read(); !part.done; part = await lines.read()) text += part.value;
      assert.equal((await child.status).code, 0, await errors);
      return JSON.parse(text) as Told;
    },
  };
}

/** Processes that want the same. */
export const X1P: Suite = {
  id: "X1P",
  title: "2, 4 and 8 processes make one output, with locks and without",
  share: 1,
  async open() {
    await using undo = new AsyncDisposableStack();
    const backend = undo.use(await openWasm({ threads: 1 }));
    const at = undo.use(await folder());
    const whole = { ...ROUNDED, backend, out: `${await Deno.realPath(at.path)}/whole` };
    await attempt(whole);
    const expected = await bytesOf(whole.out);
    const cases = [2, 4, 8].flatMap((count) =>
      [false, true].flatMap((lockless) =>
        Array.from({ length: ROUNDS }, (_, i) => ({ count, lockless, left: i % 2 === 1 }))
      )
    );
    const kept = undo.move();
    return {
      count: cases.length,
      async run(index) {
        const { count, lockless, left } = cases[index]!;
        await using place = await folder();
        const out = `${await Deno.realPath(place.path)}/made/out`;
        // By a process that has ended: where there are no locks its number tells that it has.
        if (left) await (await begin({ out, lockless, stop: 2 })).go();
        const rivals = await Promise.all(
          Array.from({ length: count }, () => begin({ out, lockless })),
        );
        const told = await Promise.all(rivals.map((rival) => rival.go()));
        const refused = told.flatMap(({ refused }) => refused ?? []);
        for (const message of refused) assert.match(message, REFUSED);
        const makers = count - refused.length;
        assert.ok(makers <= 1, `${makers} made it`);
        if (makers === 0) await attempt({ ...whole, out });
        assert.deepEqual(await bytesOf(out), expected);
        {
          await using _ = await openFolderSink(`${out}-next`);
        }
        assert.deepEqual(await disk.list(dirname(out)), ["out"]);
        return makers === 1 ? "one made it" : "nobody made it, and the next did";
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
