/** What is advised: it fits, somebody opens it, and its numbers are those of a plan. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { HARDWARE, hardwareNamed, TARGETS, usualHardware } from "../src/advice/hardware.ts";
import { advise } from "../src/advise.ts";
import { CpuLimits } from "../src/backends/wasm/limits.ts";
import { UnsupportedError } from "../src/errors.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";

const device = new CpuLimits(1);
const calibration = { seqLen: 512, windows: 8, stateBudget: 0 };

Deno.test("every machine has a target that is known, and every target a machine", () => {
  assert.equal(new Set(HARDWARE.map(({ name }) => name)).size, HARDWARE.length);
  for (const { target } of HARDWARE) assert.ok(TARGETS.includes(target));
  for (const target of TARGETS) assert.equal(usualHardware(target).target, target);
  assert.equal(hardwareNamed("H100"), hardwareNamed("h100"));
  assert.equal(hardwareNamed("abacus"), undefined);
});

Deno.test("proposals are plans that fit the machine and that something there opens", async () => {
  await using source = await openCheckpoint(fileURLToPath(SAMPLE_MODEL));
  for (const hardware of HARDWARE) {
    const { proposals } = advise(source, { hardware, device, calibration });
    assert.ok(proposals.length > 0 && proposals.length <= 3, hardware.name);
    for (const { options, plan: work, tokensPerSecond, left, loaders } of proposals) {
      const again = plan(recipeFromOptions(options), source, { device, calibration });
      assert.equal(work.totalBytes, again.totalBytes);
      assert.equal(tokensPerSecond, hardware.bandwidth / again.totalBytes);
      assert.equal(left, hardware.memoryBytes - again.totalBytes);
      assert.ok(loaders.length > 0 && loaders.every(({ opens }) => opens !== "no"));
      assert.ok(options.scheme !== "FP8_DYNAMIC" || hardware.native.includes("fp8"));
      assert.ok(options.scheme !== "W8A8" || hardware.native.includes("int8"));
    }
  }
});

Deno.test("less memory leaves what is smaller, and at last nothing, which is said with the reasons", async () => {
  await using source = await openCheckpoint(fileURLToPath(SAMPLE_MODEL));
  const hardware = hardwareNamed("rtx-4090")!;
  const schemes = (memoryBytes: number) =>
    advise(source, { hardware, memoryBytes, device, calibration }).proposals
      .map(({ options: { scheme } }) => scheme);
  assert.deepEqual(schemes(24e9), ["FP8_DYNAMIC", "W4A16", "NF4"]);
  assert.deepEqual(schemes(5.5e6), ["W4A16", "NF4"]);
  // A fifth is for other things: 3.56 MB take more than four fifths of 4.2 MB.
  const smallest = schemes(4.6e6);
  assert.deepEqual(smallest, ["W3A16"]);
  assert.throws(
    () => schemes(2e6),
    (error) =>
      error instanceof UnsupportedError &&
      /nothing fits.*W3A16: .* are more than 80 %/.test(error.message),
  );
});
