/**
 * Windows in shards: what is gathered of each apart, and saved, adds up to what is gathered of all
 * in one go, exactly where order is of no account, and else to the sum of the sums, bit by bit.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import { handOver } from "../src/calibration/gathering.ts";
import type { Panels } from "../src/linalg/panels.ts";
import { type Observer, openObservations } from "../src/observer.ts";
import { OBSERVERS } from "../src/observers/mod.ts";
import { absmean } from "../src/observers/absmean.ts";
import { gram } from "../src/observers/gram.ts";
import { tokenSample } from "../src/observers/token_sample.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

const [CHANNELS, WINDOW] = [67, 150];

/** Windows of f32[150, 67]: so many tokens that a sample leaves some out. */
const WINDOWS = [1, 8, 0.5, 2, 1].map((size, seed) => gaussian(WINDOW * CHANNELS, seed + 1, size));

/** Gather some windows, from one of them on. */
async function gather(
  observer: Observer,
  { first, windows, scope }: {
    readonly first: number;
    readonly windows: readonly Float32Array<ArrayBuffer>[];
    readonly scope: Scope;
  },
) {
  const observations = openObservations([observer], {
    channels: CHANNELS,
    tokens: WINDOWS.length * WINDOW,
    windowTokens: WINDOW,
    firstToken: first * WINDOW,
    scope,
  });
  for (const window of windows) {
    using scratch = scope.backend.scope();
    const x = scratch.alloc("f32", [WINDOW, CHANNELS]);
    scope.backend.write(x, new Uint8Array(window.buffer));
    await observations.add(x);
  }
  return observations;
}

/** What an observer says of windows in shards. */
async function inShards(
  observer: Observer,
  sizes: readonly number[],
  scope: Scope,
): Promise<unknown> {
  const all = await gather(observer, { first: 0, windows: [], scope });
  let first = 0;
  for (const size of sizes) {
    using own = scope.backend.scope();
    const windows = WINDOWS.slice(first, first + size);
    await handOver(await gather(observer, { first, windows, scope: own }), all);
    first += size;
  }
  return (await all.finish()).of(observer);
}

async function floatsOf(backend: Backend, ...tensors: readonly Tensor[]): Promise<number[]> {
  return (await backend.read(...tensors)).flatMap((bytes) => [...new Float32Array(bytes.buffer)]);
}

await onEveryBackend(
  "what observers gather of shards adds up to what they gather of all windows",
  async (backend) => {
    for (const observer of OBSERVERS) {
      using scope = backend.scope();
      const whole = await gather(observer, { first: 0, windows: WINDOWS, scope });
      const known: unknown = (await whole.finish()).of(observer);
      const found = await inShards(observer, [2, 1, 2], scope);
      if (observer === gram) {
        const values = (of: unknown) =>
          floatsOf(backend, ...(of as Panels).panels.map(({ tensor }) => tensor));
        const apart = await Promise.all([[0, 2], [2, 1], [3, 2]].map(async ([first, size]) => {
          const windows = WINDOWS.slice(first, first! + size!);
          const own = await gather(observer, { first: first!, windows, scope });
          return await values((await own.finish()).of(observer));
        }));
        const sums = apart[0]!.map((value, i) =>
          Math.fround(Math.fround(value + apart[1]![i]!) + apart[2]![i]!)
        );
        assert.deepEqual(await values(found), sums, "the sum of the shards' sums");
      } else if (observer === tokenSample) {
        assert.deepEqual(
          await floatsOf(backend, found as Tensor),
          await floatsOf(backend, known as Tensor),
        );
      } else if (observer === absmean) {
        // Sums of 750 numbers, in another order.
        (found as Float32Array).forEach((value, c) => {
          const all = (known as Float32Array)[c]!;
          assert.ok(Math.abs(value - all) <= 750 * 2 ** -24 * all, `channel ${c}: ${value}`);
        });
      } else assert.deepEqual(found, known, observer.name);
    }
  },
);

Deno.test("what is handed over in other pieces than are taken is refused", async () => {
  const saves = (...sizes: number[]) => ({
    save: async (to: { write(bytes: Uint8Array<ArrayBuffer>): Promise<void> }) => {
      for (const size of sizes) await to.write(new Uint8Array(size));
    },
    restore: () => Promise.resolve(),
  });
  const takes = (...sizes: number[]) => ({
    save: () => Promise.resolve(),
    restore: async (from: { read(size: number): Promise<unknown> }) => {
      for (const size of sizes) await from.read(size);
    },
  });
  await handOver(saves(3, 4, 5), takes(3, 4, 5));
  await handOver(saves(), takes());
  await assert.rejects(handOver(saves(3), takes(4)), /Cannot hand over 3 bytes where 4 fit/);
  await assert.rejects(handOver(saves(3), takes(3, 1)), /Cannot hand over no bytes where 1 fit/);
});
