/** A tiny checkpoint, a fake Hub to publish it to, and what came of it. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { referenceBackend } from "../src/backends/reference.ts";
import { HubClient } from "../src/hub/client.ts";
import type { Timing } from "../src/hub/timing.ts";
import { modelCard } from "../src/publish/model_card.ts";
import type { PublishEvent, PublishOptions } from "../src/publish.ts";
import { verify, type VerifyReport } from "../src/verify.ts";
import { type FakeHub, type FakeHubOptions, startFakeHub, TOKEN } from "./fake_hub/mod.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

export const NAME = "me/tiny";
export const CARD = modelCard({ name: NAME });

/** A folder to publish, a Hub to publish it to, and what happened. */
export interface Stage {
  readonly hub: FakeHub;
  readonly folder: string;
  readonly options: PublishOptions;
  /** Milliseconds of each wait. */
  readonly waits: number[];
  readonly events: PublishEvent[];
}

/**
 * Run a test with a tiny checkpoint (about 300 kB of weights, a tokenizer in a subfolder's company)
 * and a fake Hub.
 */
export async function withStage(
  test: (stage: Stage) => Promise<void>,
  hubOptions: FakeHubOptions = {},
) {
  const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  try {
    await Deno.writeTextFile(join(folder, "tokenizer.json"), `{"name": "größe"}`);
    await Deno.mkdir(join(folder, "additional_chat_templates"));
    await Deno.writeTextFile(join(folder, "additional_chat_templates", "a b#c.jinja"), "{{ x }}");
    const verified = await verifyFolder(folder);
    await using hub = await startFakeHub(hubOptions);
    const waits: number[] = [];
    const events: PublishEvent[] = [];
    const timing: Timing = {
      now: () => Date.now(),
      random: () => 0.5,
      wait: (milliseconds) => Promise.resolve(void waits.push(milliseconds)),
    };
    await test({
      hub,
      folder,
      waits,
      events,
      options: {
        hub: { endpoint: hub.endpoint, token: TOKEN, userAgent: "sluice-test", timing },
        card: CARD,
        verified,
        report: (event) => events.push(event),
      },
    });
    assert.deepEqual(hub.violations, []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

export async function verifyFolder(folder: string): Promise<VerifyReport> {
  await using backend = referenceBackend();
  return await verify(folder, { backend });
}

/** The files of a folder by path, as hashes. */
export async function hashesOf(folder: string, prefix = ""): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { name, isDirectory } of Deno.readDirSync(join(folder, prefix))) {
    const path = prefix + name;
    if (isDirectory) Object.assign(found, await hashesOf(folder, `${path}/`));
    else found[path] = sha256(await Deno.readFile(join(folder, path)));
  }
  return found;
}

export function sha256(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Download what is on a revision; hashes by path. */
export async function download(
  { hub, options }: Pick<Stage, "hub"> & { readonly options: Pick<PublishOptions, "hub"> },
  revision = "main",
): Promise<Record<string, string>> {
  const client = new HubClient({ ...options.hub });
  const repo = await client.pin({ kind: "model", id: NAME, revision });
  const found: Record<string, string> = {};
  for (const file of await client.files(repo)) {
    if (file.path !== ".gitattributes") found[file.path] = sha256(await client.readWhole(file));
  }
  assert.deepEqual(hub.violations, []);
  return found;
}

/** Commits of a branch, the first one not counted. */
export function commitsOn(hub: FakeHub, branch = "main"): number {
  let count = 0;
  for (let at = hub.repo(NAME).head(branch).parent; at; at = at.parent) count++;
  return count;
}

export function requests(hub: FakeHub, method: string, path: RegExp): number {
  return hub.log.filter((entry) => entry.method === method && path.test(entry.path)).length;
}

export const expected = async (folder: string) => ({
  ...await hashesOf(folder),
  "README.md": sha256(CARD),
});

/** What `act` is refused with. */
export async function refusal<T extends Error>(
  kind: new (...given: never[]) => T,
  act: Promise<unknown>,
): Promise<T> {
  const [result] = await Promise.allSettled([act]);
  assert.equal(result.status, "rejected");
  assert.ok(result.reason instanceof kind, String(result.reason));
  return result.reason;
}

/** Parts of 64 KiB make several of the tiny checkpoint's weights. */
export const IN_PARTS: FakeHubOptions = { partBytes: 2 ** 16 };

/** A batch answer with another `upload` action. */
export function upload(said: Record<string, unknown>, change: Record<string, unknown>): unknown {
  const objects = said.objects as { actions: { upload: Record<string, unknown> } }[];
  return {
    ...said,
    objects: objects.map(({ actions, ...object }) => ({
      ...object,
      actions: { ...actions, upload: { ...actions.upload, ...change } },
    })),
  };
}
