/** A Hub that takes files in parts, and the program as a process that uploads to it and is killed. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { type FakeHub, type FakeHubOptions, startFakeHub, TOKEN } from "./fake_hub/mod.ts";
import { inFolder } from "./cli/host.ts";

export const NAME = "me/made";
export const PART = 2 ** 16;
const CLI = fileURLToPath(new URL("../cli.ts", import.meta.url));

/** Run a test with a fake Hub that takes files in parts, and a folder. */
export function withHub(
  test: (hub: FakeHub, folder: string) => Promise<void>,
  options: FakeHubOptions = {},
): Promise<void> {
  return inFolder(async (folder) => {
    await using hub = await startFakeHub({ partBytes: PART, ...options });
    await test(hub, folder);
    assert.deepEqual(hub.violations, []);
  });
}

export function reach({ endpoint }: FakeHub) {
  return { endpoint, token: TOKEN, userAgent: "sluice-test" };
}

/** How often storage took each part, by its address without the signature. */
export function partsTaken(hub: FakeHub): ReadonlyMap<string, number> {
  const taken = new Map<string, number>();
  for (const { method, path, status } of hub.log) {
    if (method !== "PUT" || status !== 200) continue;
    const place = path.split("?")[0]!;
    taken.set(place, (taken.get(place) ?? 0) + 1);
  }
  return taken;
}

export function posts(hub: FakeHub, path: RegExp): number {
  return hub.log.filter((entry) => entry.method === "POST" && path.test(entry.path)).length;
}

/** Wait for something of another process, or of what goes on beside. */
export async function until(found: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await found())) await new Promise((resolve) => setTimeout(resolve, 5));
}

export const QUANTIZE = "quantize sample --scheme W4A16 --method rtn --group-size 64 --device wasm";
export const UPLOAD = ["--yes", "--upload-repo", NAME];
const COMMAND = [...QUANTIZE.split(" "), "--max-shard-size", "1MB", ...UPLOAD];

/** The program as a process of its own, with a canary for a token; what it makes goes to `out`. */
export function spawn(
  hub: FakeHub,
  folder: string,
  token: string,
  words: readonly string[] = COMMAND,
): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--quiet", CLI, ...words],
      ...(words[0] === "publish" ? [] : ["--output", `${folder}/out`]),
    ],
    env: { HF_ENDPOINT: hub.endpoint, HF_TOKEN: token, HF_HOME: folder, HF_HUB_OFFLINE: "0" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}
