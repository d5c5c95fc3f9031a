/**
 * G1: the GPU is lost in the middle of a run, before any of its dispatches. The run ends with a
 * DeviceError that says so; the same command goes on on a new device, to the same bytes.
 */
import assert from "node:assert/strict";
import { dirname } from "node:path";
import type { WebgpuBackend } from "../../src/backends/webgpu/mod.ts";
import { DeviceError } from "../../src/errors.ts";
import { ABSENT_GPU, openTestGpu } from "../adapter.ts";
import { attempt, outcomeOf } from "../resume_given.ts";
import { folder, withOwn } from "../run_given.ts";
import { randoms } from "../tiny.ts";
import { gpuWork } from "./gpu_given.ts";
import type { Suite } from "./suite.ts";

const CASES = 60;

/** A GPU that is lost before one of its dispatches, and how many there were. */
function lostAt(gpu: WebgpuBackend, at: number) {
  const counted = { dispatches: 0 };
  const run: WebgpuBackend["run"] = (...given) => {
    if (counted.dispatches++ === at) gpu.device.destroy();
    gpu.run(...given);
  };
  return { backend: withOwn(gpu, { run }), counted };
}

/** The GPU is lost. */
export const G1: Suite = {
  id: "G1",
  title: "the GPU is lost before any of a run's dispatches",
  share: 2,
  absent: ABSENT_GPU,
  async open(seed) {
    await using undo = new AsyncDisposableStack();
    // Others share this one; those that are lost are their own.
    const { gpu: whole, calibrated, out } = await gpuWork(undo);
    const { backend, counted } = lostAt(whole, Infinity);
    const expected = await outcomeOf(out, await attempt({ ...calibrated, backend, out }));
    const next = randoms(seed);
    const places = Array.from(
      { length: CASES },
      () => Math.floor((next() + 1) / 2 * counted.dispatches),
    );
    const kept = undo.move();
    return {
      count: CASES,
      async run(index) {
        await using place = await folder();
        const work = { ...calibrated, out: `${await Deno.realPath(place.path)}/out` };
        {
          await using gpu = await openTestGpu();
          const { backend } = lostAt(gpu, places[index]!);
          await assert.rejects(attempt({ ...work, backend }), (error) => {
            assert.ok(error instanceof DeviceError, String(error));
            assert.equal(error.kind, "lost");
            assert.match(
              error.message,
              /^The GPU .* is gone .*Open it again and repeat the work\.$/,
            );
            return true;
          });
        }
        let became = "began anew";
        const report = await attempt({ ...work, backend: whole }, {
          report(event) {
            if (event.type === "resumed") became = "went on";
          },
        });
        assert.deepEqual(await outcomeOf(work.out, report), expected);
        assert.deepEqual([...Deno.readDirSync(dirname(work.out))].map(({ name }) => name), ["out"]);
        return became;
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
