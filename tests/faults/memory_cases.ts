/**
 * M1: a model of 20 GB from the Hub, by range, through a staging folder of one file, and of two. The
 * process never holds more than a tenth of it, looked at every 100 ms, nor does its folder of files
 * on their way.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { startFakeHub, syntheticCheckpoint, TOKEN } from "../fake_hub/mod.ts";
import { folder } from "../run_given.ts";
import type { Suite } from "./suite.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const MODEL_BYTES = 20e9;
const MOST = MODEL_BYTES / 10;
const LOOK = 100;
const DISKS = ["1MB", "5.5GB", "11GB"];

/** Resident bytes of a process; 0 once it has ended. */
async function residentOf(process: number): Promise<number> {
  try {
    const text = await Deno.readTextFile(`/proc/${process}/status`);
    return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

/** Models larger than memory. */
export const M1: Suite = {
  id: "M1",
  title: "a model of 20 GB from the Hub in a tenth of it",
  // Minutes each.
  share: 0,
  absent: Deno.build.os === "linux" ? undefined : "only Linux tells what a process holds",
  open() {
    return Promise.resolve({
      count: DISKS.length,
      async run(index) {
        await using place = await folder();
        await using hub = await startFakeHub({
          repos: { "org/big": syntheticCheckpoint({ totalBytes: MODEL_BYTES }) },
        });
        const child = new Deno.Command(Deno.execPath(), {
          args: ["run", "-A", "--quiet", CLI, "quantize", "org/big"].concat(
            ["--scheme", "NF4", "--device", "wasm", "--quiet", "--output", `${place.path}/out`],
            ["--max-disk", DISKS[index]!],
          ),
          env: {
            HF_ENDPOINT: hub.endpoint,
            HF_TOKEN: TOKEN,
            HF_HOME: place.path,
            HF_HUB_OFFLINE: "0",
            TMPDIR: place.path,
          },
          stdout: "null",
          stderr: "piped",
        }).spawn();
        const error = new Response(child.stderr).text();
        let [most, looks, ended] = [0, 0, false];
        const watching = (async () => {
          for (; !ended; looks++) {
            most = Math.max(most, await residentOf(child.pid));
            await new Promise((resolve) => setTimeout(resolve, LOOK));
          }
        })();
        const { code } = await child.status;
        ended = true;
        await watching;
        assert.equal(code, 0, await error);
        assert.ok(looks > 10 && most > 1e8);
        assert.ok(most < MOST, `it held ${most} bytes`);
        return `made in ${(most / 1e9).toFixed(1)} GB`;
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
};
