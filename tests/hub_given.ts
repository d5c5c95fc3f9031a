/**
 * What tests of the Hub have in common: a small repository, a client that waits for nothing, a
 * token whose every trace would be seen.
 */
import { type Disk, disk as machine, type DiskWriter } from "../src/io/disk.ts";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { HubError } from "../src/errors.ts";
import { HubClient, type HubClientOptions } from "../src/hub/client.ts";
import type { Timing } from "../src/hub/timing.ts";
import type { Event } from "../src/report.ts";
import { openHub, type OpenHubOptions } from "../src/sources/hub.ts";
import { BITS, type DType } from "../src/tensor.ts";
import { type FakeHub, type FakeHubOptions, startFakeHub } from "./fake_hub/mod.ts";
import { type Filled, safetensorsFile } from "./memory.ts";

/** A token that must be seen nowhere but in the headers of requests to the Hub. */
export const CANARY = "hf_canaryCANARYcanary0123456789";

/** Numbers from 0, below 1, that are the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = state;
    t = Math.imul(t ^ t >>> 15, t | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

/** The seed of this run: SLUICE_FAULT_SEED, or one. A failing test prints it. */
export const SEED = Number(Deno.env.get("SLUICE_FAULT_SEED") ?? 1);

/** Asks tests to say how many cases they had, and how they say it. */
export const COUNT = "SLUICE_FAULT_COUNT";
export const COUNTED = /^cases: (\d+)$/gm;

/** Say how many cases a test had, where that is asked. */
export function tellCases(count: number): void {
  // deno-lint-ignore no-console -- for `deno task test:faults`, which adds them up
  if (Deno.env.has(COUNT)) console.log(`cases: ${count}`);
}

/** Time that passes at once. */
export function hasty(seed = SEED): Timing & { readonly waits: number[] } {
  const waits: number[] = [];
  let passed = 0;
  return {
    waits,
    now: () => Date.UTC(2026, 0, 1) + passed,
    random: seeded(seed),
    wait(milliseconds, signal) {
      signal?.throwIfAborted();
      waits.push(milliseconds);
      passed += milliseconds;
      return Promise.resolve();
    },
  };
}

/**
 * Tensors of every dtype with bytes of no pattern: two shards of about `shardBytes`, with an index,
 * a config and a tokenizer.
 */
export function smallRepository(
  shardBytes: number,
): Readonly<Record<string, Uint8Array<ArrayBuffer> | string>> {
  const random = seeded(7);
  const dtypes = Object.keys(BITS) as DType[];
  const map: Record<string, string> = {};
  const files: Record<string, Uint8Array<ArrayBuffer> | string> = {};
  for (const shard of [1, 2]) {
    const name = `model-0000${shard}-of-00002.safetensors`;
    const tensors: Filled[] = [];
    const columns = 32, each = Math.floor(shardBytes / 30 / columns);
    for (let i = 0; i < 30; i++) {
      const dtype = dtypes[(i + shard) % dtypes.length]!;
      const rows = Math.max(1, Math.floor(each * 8 / BITS[dtype] + i % 3)) * 2;
      const shape = i === 5 ? [] : i === 6 ? [0, columns] : [rows / 2, columns];
      const real = BITS[dtype] % 8 !== 0 && i === 5 ? "u8" : dtype;
      const length = shape.reduce((n, size) => n * size, 1) * BITS[real] / 8;
      const tensor = `layers.${shard}.${i}`;
      tensors.push({
        name: tensor,
        dtype: real,
        shape,
        bytes: Uint8Array.from({ length }, () => random() * 256),
      });
      map[tensor] = name;
    }
    files[name] = safetensorsFile(tensors);
  }
  files["model.safetensors.index.json"] = JSON.stringify({ metadata: {}, weight_map: map });
  files["config.json"] = JSON.stringify({ model_type: "none" });
  files["tokenizer.json"] = JSON.stringify({ version: "1.0" });
  files["README.md"] = "---\nlicense: mit\n---\n";
  return files;
}

/** A fake Hub with this repository as `org/model`, on which the canary may do everything. */
export async function startHub(
  files: Readonly<Record<string, Uint8Array<ArrayBuffer> | string>>,
  options: FakeHubOptions = {},
): Promise<FakeHub> {
  const { repos, ...others } = options;
  return await startFakeHub({
    tokens: { [CANARY]: { user: "me", role: "write", orgs: ["org"] } },
    ...others,
    repos: { "org/model": files, ...repos },
  });
}

/** A client with the canary. */
export function clientOf(hub: FakeHub, options: Partial<HubClientOptions> = {}): HubClient {
  return new HubClient({
    endpoint: hub.endpoint,
    token: CANARY,
    userAgent: "sluice-test/0",
    idleTimeout: 2000,
    timing: hasty(),
    ...options,
  });
}

/** What became of reading a checkpoint from beginning to end. */
export interface Outcome {
  /** SHA-256 of all tensors with their names; undefined when it failed. */
  readonly digest: string | undefined;
  readonly error: unknown;
  readonly events: readonly Event[];
}

/** How to read a checkpoint. */
export interface ReadingOptions {
  readonly client?: Partial<HubClientOptions>;
  readonly open?: Partial<OpenHubOptions>;
  /** Keep whole files, at most so many bytes of them; without it tensors are read by range. */
  readonly maxDisk?: number;
  /**
   * Read nothing until the first file, which is planned, lies in the staging folder, or cannot.
   */
  readonly idle?: boolean;
  /** The order of reading; that of the files unless given. */
  readonly order?: (names: string[]) => string[];
}

/** Of every two readings one is by the network's thread. */
let readings = 0;

/**
 * Open `org/model`, read all of it as a run does, and look everywhere for the token and for files
 * left behind.
 */
export async function readModel(hub: FakeHub, options: ReadingOptions = {}): Promise<Outcome> {
  const events: Event[] = [];
  const report = (event: Event) => void events.push(event);
  const parent = await Deno.makeTempDir({ prefix: "sluice_hub_" });
  const { maxDisk } = options;
  const wrote = Promise.withResolvers<void>();
  const { disk = machine } = options.open ?? {};
  const seen: Disk = {
    ...disk,
    create: async (path, size) => {
      const writer = await disk.create(path, size);
      const write: DiskWriter["write"] = async (offset, bytes) => {
        await writer.write(offset, bytes).finally(wrote.resolve);
      };
      const end = () => writer[Symbol.asyncDispose]();
      return { write, sync: () => writer.sync(), [Symbol.asyncDispose]: end };
    },
  };
  let digest: string | undefined, error: unknown;
  try {
    await using source = await openHub("org/model", {
      client: clientOf(hub, { report, ...options.client }),
      report,
      ...(maxDisk === undefined ? {} : { maxDisk, stagingFolder: `${parent}/staging` }),
      largeSpan: readings++ % 2 === 0 ? 0 : Infinity,
      ...options.open,
      disk: seen,
    });
    const hash = createHash("sha256");
    const order = options.order ?? ((names) => names);
    const names = order([...source.tensors.keys()]);
    if (maxDisk !== undefined) source.schedule!(names.map((name) => ({ name })));
    if (options.idle) await wrote.promise;
    const parts = new Map<string, string>();
    for (const name of names) {
      parts.set(
        name,
        createHash("sha256").update(await source.read(name)).digest("hex"),
      );
    }
    for (const path of source.files.keys()) {
      parts.set(path, createHash("sha256").update(await source.readFile(path)).digest("hex"));
    }
    await source.verified!();
    for (const name of [...parts.keys()].sort()) hash.update(`${name} ${parts.get(name)}\n`);
    digest = hash.digest("hex");
  } catch (caught) {
    error = caught;
  }
  const left = [...Deno.readDirSync(parent)].map(({ name }) => name);
  await Deno.remove(parent, { recursive: true });
  assert.deepEqual(left, [], "the staging folder is left behind");
  assert.deepEqual(hub.violations, [], "the token went where it should not");
  for (const place of [describe(error), JSON.stringify(events)]) {
    assert.ok(!place.includes(CANARY) && !place.includes("Signature="), `a secret in: ${place}`);
  }
  return { digest, error, events };
}

/** Everything that an error tells, its causes too. */
export function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { status, url } = error instanceof HubError ? error : {};
  return [
    error.name,
    error.message,
    error.stack,
    status,
    url,
    error.cause === undefined ? "" : describe(error.cause),
  ].join("\n");
}
