/**
 * K3 and K4: processes that are killed for good: at the start, in the middle and at the end of each
 * stage of a run, and again while they go on. The same command makes what an uninterrupted one
 * makes, leaves nothing else, and publishes it in one commit.
 */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { openFolderSink } from "../../src/sinks/folder.ts";
import { startFakeHub, TOKEN } from "../fake_hub/mod.ts";
import { commitsOn, download, expected, hashesOf, NAME } from "../publish_given.ts";
import { folder } from "../run_given.ts";
import { randoms } from "../tiny.ts";
import type { Given, Told } from "./child.ts";
import { type Kill, STAGES } from "./moments.ts";
import type { Cases, Suite } from "./suite.ts";

const CHILD = fileURLToPath(new URL("child.ts", import.meta.url));
const MODEL = "org/model";

/** Have a process do it; what it told, or undefined where it was killed. */
async function spawn(given: Given): Promise<Told | undefined> {
  const { code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", CHILD, JSON.stringify(given)],
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (signal === "SIGKILL") return undefined;
  assert.equal(code, 0, err);
  return JSON.parse(out!) as Told;
}

/** What uninterrupted processes make, and what others make that are killed at some moments. */
async function open(
  casesOf: (moments: Told["moments"]) => readonly (readonly Kill[])[],
  became: (kills: number, resumed: number) => string,
): Promise<Cases> {
  await using undo = new AsyncDisposableStack();
  const at = undo.use(await folder());
  const hub = undo.use(await startFakeHub({ repos: { [MODEL]: "sample/model" } }));
  const asking = { endpoint: hub.endpoint, token: TOKEN, userAgent: "sluice-test" };
  const given = { endpoint: hub.endpoint, model: MODEL };
  const whole = `${await Deno.realPath(at.path)}/whole/out`;
  const { moments } = (await spawn({ ...given, out: whole }))!;
  const made = await hashesOf(whole);
  hub.remove(NAME);
  const cases = casesOf(moments);
  const kept = undo.move();
  return {
    count: cases.length,
    async run(index) {
      await using place = await folder();
      const out = `${await Deno.realPath(place.path)}/made/out`;
      let [kills, resumed] = [0, 0];
      for (const kill of [...cases[index]!, undefined]) {
        const told = await spawn({ ...given, out, ...(kill ? { kill } : {}) });
        resumed = told?.resumed ?? 0;
        if (told) break;
        kills++;
      }
      assert.deepEqual(await hashesOf(out), made);
      {
        // What one left that was killed when the output had its name, the next run there removes.
        await using _ = await openFolderSink(`${out}-next`);
      }
      assert.deepEqual([...Deno.readDirSync(dirname(out))].map(({ name }) => name), ["out"]);
      assert.equal(commitsOn(hub), 1);
      assert.deepEqual(await download({ hub, options: { hub: asking } }), await expected(out));
      assert.deepEqual(hub.violations, []);
      hub.remove(NAME);
      return became(kills, resumed);
    },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

/** Windows knows no SIGKILL. */
const absent = Deno.build.os === "windows" ? "processes cannot be killed so here" : undefined;

/** Killed at the first moment of a stage, at the one in the middle, at the last. */
export const K3: Suite = {
  id: "K3",
  title: "a process is killed at the start, in the middle and at the end of each of 12 stages",
  share: 1,
  absent,
  open: () =>
    open(
      (moments) =>
        STAGES.flatMap((stage) => {
          const count = moments[stage];
          assert.ok(count >= 3, `${stage} has ${count} moments`);
          return [0, count >> 1, count - 1].map((at) => [{ stage, at }]);
        }),
      (kills, resumed) => {
        assert.equal(kills, 1);
        return resumed > 0 ? "went on" : "began anew, or was made";
      },
    ),
};

/** Of K4. */
const RUNS = 100;
/** How far the run, and those that go on, may come before they are killed. */
const FAR = [1, 0.5, 0.5];

/** Killed, and killed while it goes on, and killed while that goes on. */
export const K4: Suite = {
  id: "K4",
  title: "a process is killed, and twice again while it goes on",
  share: 1,
  absent,
  open(seed) {
    const next = randoms(seed);
    return open(
      (moments) => {
        const all = Object.values(moments).reduce((sum, count) => sum + count, 0);
        return Array.from(
          { length: RUNS },
          () => FAR.map((share) => ({ at: Math.floor((next() + 1) / 2 * share * all) })),
        );
      },
      (kills) => `killed ${kills} times`,
    );
  },
};
