/** A fake Hub where machines meet, a clock that is in a hurry, and what must be seen nowhere. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { HubPlace, type HubPlaceOptions } from "../src/meeting/hub_place.ts";
import type { Timing } from "../src/hub/timing.ts";
import type { Event } from "../src/report.ts";
import { work, type Worked } from "../src/run/worker.ts";
import { type FakeHub, type FakeHubOptions, startFakeHub } from "./fake_hub/mod.ts";
import { CANARY, describe } from "./hub_given.ts";
import { shared, type SharedJob } from "./work_given.ts";

export const PLACE = "hf://me/job";

/** A clock by which a minute is half a second, and waiting takes as long. */
const FACTOR = 120;
export const hurried: Timing = {
  now: () => Math.round(performance.now() * FACTOR),
  random: Math.random,
  wait: (milliseconds, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      setTimeout(() => signal?.aborted ? reject(signal.reason) : resolve(), milliseconds / FACTOR);
    }),
};

/** A job, and a fake Hub to do it on. */
export interface Meeting extends SharedJob {
  readonly hub: FakeHub;
  readonly events: Event[];
  /** How one machine reaches it. */
  readonly options: () => HubPlaceOptions;
  /** A machine that opens the repository. */
  readonly open: (more?: Partial<HubPlaceOptions>) => Promise<HubPlace>;
  /** A worker of its own. */
  readonly worker: (index: number, count: number, place?: HubPlace) => Promise<Worked>;
  /** What was merged, by a machine of its own. */
  readonly put: (name?: string) => Promise<Map<string, string>>;
  /** Commits, but for the first and the job's. */
  readonly commits: () => number;
}

/** Plan a job on a fake Hub, and see at the end that the token went nowhere. */
export async function meeting(
  options: Record<string, unknown>,
  test: (around: Meeting) => Promise<void>,
  hubOptions: FakeHubOptions = {},
): Promise<void> {
  await shared(options, async (around) => {
    await using hub = await startFakeHub({
      tokens: { [CANARY]: { user: "me", role: "write" } },
      ...hubOptions,
    });
    const events: Event[] = [];
    let machines = 0;
    await Deno.mkdir(around.path, { recursive: true });
    const optionsOf = (): HubPlaceOptions => {
      const folder = join(around.path, String(machines++));
      Deno.mkdirSync(folder);
      return {
        hub: {
          endpoint: hub.endpoint,
          token: CANARY,
          userAgent: "sluice-test/0",
          timing: hurried,
          idleTimeout: 2000,
        },
        folder,
        report: (event) => events.push(event),
      };
    };
    const open = (more: Partial<HubPlaceOptions> = {}) =>
      HubPlace.open(PLACE, { ...optionsOf(), ...more, writes: true });
    const { made, source, backend, inputs } = around;
    await HubPlace.create(PLACE, around.job, optionsOf());
    await test({
      ...around,
      hub,
      events,
      options: optionsOf,
      open,
      worker: async (index, count, place) => {
        await using own = place ?? await open();
        return await work(made, { folder: own, index, count, source, backend, ...inputs });
      },
      put: async (name) => {
        await using place = await open();
        return await around.merged(place, name);
      },
      commits: () => {
        let count = -1;
        for (let at = hub.repo("me/job").head().parent; at; at = at.parent) count++;
        return count;
      },
    });
    assert.deepEqual(hub.violations, []);
    assert.ok(!JSON.stringify(events).includes(CANARY));
    for (let i = 0; i < machines; i++) {
      assert.deepEqual([...Deno.readDirSync(join(around.path, String(i)))], [], "left on the disk");
    }
  });
}

/** What something is refused with, in which no token may stand. */
export async function refused(
  act: Promise<unknown>,
  name: string,
  message: RegExp,
): Promise<void> {
  await assert.rejects(act, (error: Error) => {
    assert.ok(!describe(error).includes(CANARY));
    assert.equal(error.name, name);
    assert.match(error.message, message);
    return true;
  });
}
