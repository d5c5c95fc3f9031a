/**
 * Processes that are killed at moments drawn by chance, again while they go on: what is made in the
 * end is what an uninterrupted one makes, to the byte and the bit. More of them: SLUICE_KILLS=200.
 */
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { RequestError } from "../src/errors.ts";
import { disk } from "../src/io/disk.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { type RunStatus, runStatus } from "../src/run/status.ts";
import { bytesOf } from "./run_given.ts";
import { randoms } from "./tiny.ts";

const KILLS = Number(Deno.env.get("SLUICE_KILLS") ?? 20);
/** Of the moments, in rows of runs that go on beside each other. */
const SEEDS = [11, 12];
/** The most kills of one run. */
const IN_A_ROW = 5;
const CHILD = fileURLToPath(new URL("resume_child.ts", import.meta.url));

/**
 * Begin a run, and kill it unless it is done by then: some milliseconds after it began, or after it
 * has saved more than an earlier one.
 */
async function spawn(
  out: string,
  { after, saved = false }: { readonly after?: number; readonly saved?: boolean } = {},
): Promise<{ readonly killed: boolean; readonly lines: readonly Record<string, unknown>[] }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", CHILD, out],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const ended = new AbortController();
  const killing = async () => {
    if (after === undefined) return;
    const units = await unitsOf(out);
    while (saved && await unitsOf(out) <= units) await setTimeout(10, undefined, ended);
    await setTimeout(after, undefined, ended);
    child.kill("SIGKILL");
  };
  const [{ code, signal, stdout, stderr }] = await Promise.all([
    child.output().finally(() => ended.abort()),
    killing().catch((error) => {
      // It was done before.
      if (!ended.signal.aborted) throw error;
    }),
  ]);
  const lines = new TextDecoder().decode(stdout).split("\n").filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const killed = signal === "SIGKILL";
  if (!killed) assert.equal(code, 0, new TextDecoder().decode(stderr));
  return { killed, lines };
}

/** How far a run is; undefined where nothing is there yet. */
async function statusOf(out: string): Promise<RunStatus | undefined> {
  try {
    return await runStatus(out);
  } catch (error) {
    if (error instanceof RequestError) return undefined;
    throw error;
  }
}

async function unitsOf(out: string): Promise<number> {
  return (await statusOf(out))?.units ?? 0;
}

/** Milliseconds since a run was last saved; undefined where it was not. */
async function sinceSave(out: string): Promise<number | undefined> {
  const saved = (await statusOf(out))?.saved ?? null;
  return saved === null ? undefined : Date.now() - Date.parse(saved);
}

Deno.test({
  name: `a process that is killed at ${KILLS} moments goes on to what it would have made`,
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: "sluice_kills_" }));
    try {
      const begun = performance.now();
      const whole = await spawn(`${folder}/whole`);
      let took = performance.now() - begun;
      const expected = await bytesOf(`${folder}/whole`);
      const [after, lost]: [number[], number[]] = [[], []];
      let [kills, runs] = [0, 0];
      /** Runs that are killed, one after the other; two such rows go on beside each other. */
      const killing = async (seed: number) => {
        const next = randoms(seed);
        while (kills < KILLS) {
          const out = `${folder}/${seed}/out-${runs++}`;
          for (let row = 0;; row++) {
            const moment = (next() + 1) / 2 * took;
            // However slow the machine is, some are killed that have something to go on with.
            const saved = row % 2 === 1;
            const kill = { after: saved ? moment / 6 : moment, saved };
            const started = performance.now();
            const { killed, lines } = await spawn(
              out,
              row < IN_A_ROW && kills < KILLS ? kill : {},
            );
            // The first run may have been slow.
            if (!killed && row === 0) took = Math.min(took, performance.now() - started);
            for (const line of lines) if (line.type === "resumed") after.push(Number(line.units));
            if (!killed) {
              assert.deepEqual(lines.at(-1), whole.lines.at(-1));
              break;
            }
            kills++;
            // It had its name already.
            if ((await disk.stat(out))?.kind === "folder") break;
            const ago = await sinceSave(out);
            if (ago !== undefined) lost.push(ago);
          }
          assert.deepEqual(await bytesOf(out), expected);
          await Deno.remove(out, { recursive: true });
        }
      };
      await Promise.all(SEEDS.map(killing));
      // What was killed after that has left an empty stage, which the next one removes.
      for (const seed of SEEDS) {
        const row = `${folder}/${seed}`;
        {
          await using _ = await openFolderSink(`${row}/next`);
        }
        assert.deepEqual([...Deno.readDirSync(row)], []);
      }
      // Some were killed where nothing was saved yet; all others went on.
      assert.ok(after.length > KILLS / 4, `${after.length} of ${kills} went on`);
      const median = lost.sort((a, b) => a - b)[Math.floor(lost.length / 2)];
      // deno-lint-ignore no-console -- the counts are for whoever runs the test
      console.log(
        `${kills} kills in ${runs} runs of ${Math.round(took)} ms: 0 lost, 0 corrupt; ` +
          `went on after ${after.sort().join(" ")} of 6 units; ` +
          `median ${Math.round(median ?? 0)} ms since the last save, ` +
          `where a unit takes some ${Math.round(took / 6)} ms with the start of the process`,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
