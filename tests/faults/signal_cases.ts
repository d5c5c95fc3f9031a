/**
 * K5: the program is told to end, once or twice, at ten points of a run. Told once it saves what it
 * can and says so; told twice it ends at once. The same command makes what an uninterrupted one
 * makes.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { disk } from "../../src/io/disk.ts";
import { bytesOf, folder } from "../run_given.ts";
import type { Suite } from "./suite.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const WORDS = ["quantize", "sample", "--method", "gptq", "--evaluate", "--device", "wasm", "--json"]
  .concat(["--seq-len", "64", "--num-samples", "8", "--max-shard-size", "1MB"]);
const POINTS = 10;
const SIGNALS = ["SIGINT", "SIGTERM"] as const;

/** Run the program, and tell it to end after so many lines, and once more when it says that it will. */
async function run(
  out: string,
  { signal = "SIGINT", after = Infinity, twice = false }: {
    readonly signal?: Deno.Signal;
    readonly after?: number;
    readonly twice?: boolean;
  } = {},
): Promise<{ readonly code: number; readonly lines: number; readonly err: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", CLI, ...WORDS, "--output", out],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let [lines, err, told] = [0, "", 0];
  const tell = () => {
    told++;
    child.kill(signal);
  };
  const counting = async () => {
    let rest = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + text).split("\n");
      rest = parts.pop()!;
      for (const _ of parts) if (lines++ === after) tell();
    }
  };
  const listening = async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      err += text;
      if (twice && told === 1 && /Once more stops at once\./.test(err)) tell();
    }
  };
  await Promise.all([counting(), listening()]);
  const { code } = await child.status;
  return { code, lines, err };
}

/** Told to end. */
export const K5: Suite = {
  id: "K5",
  title: "SIGINT and SIGTERM, once and twice, at ten points of a run",
  share: 1,
  absent: Deno.build.os === "windows" ? "processes cannot be told to end so here" : undefined,
  async open() {
    await using undo = new AsyncDisposableStack();
    const at = undo.use(await folder());
    const whole = `${await Deno.realPath(at.path)}/whole`;
    const { code, lines, err } = await run(whole);
    assert.equal(code, 0, err);
    const expected = await bytesOf(whole);
    const cases = SIGNALS.flatMap((signal) =>
      [false, true].flatMap((twice) =>
        Array.from({ length: POINTS }, (_, i) => ({
          signal,
          twice,
          after: Math.floor(i / POINTS * lines),
        }))
      )
    );
    const kept = undo.move();
    return {
      count: cases.length,
      async run(index) {
        await using place = await folder();
        const home = await Deno.realPath(place.path);
        const out = `${home}/out`;
        const { twice } = cases[index]!;
        const { code, err } = await run(out, cases[index]);
        assert.ok([0, 75, ...(twice ? [130] : [])].includes(code), `${code}: ${err}`);
        if (code === 75) {
          const [, kept] = /(?:goes on after (\d) of \d units|Nothing was left behind)/.exec(err) ??
            assert.fail(err);
          assert.deepEqual(await disk.list(home), kept === undefined ? [] : ["out.sluice-partial"]);
        }
        if (code !== 0) {
          const again = await run(out);
          assert.equal(again.code, 0, again.err);
        }
        assert.deepEqual(await bytesOf(out), expected);
        assert.deepEqual(await disk.list(home), ["out"]);
        return `ended with ${code}`;
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
