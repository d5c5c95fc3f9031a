/**
 * What calibration is for: on the sample model each part of it makes the result better, by more
 * than chance.
 */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import { folder, quantize } from "./run_given.ts";

for (const scheme of ["W4A16_ASYM", "W3A16"]) {
  Deno.test(`rounding, GPTQ, AWQ with GPTQ and propagation: less and less is lost of the sample model in ${scheme}`, async () => {
    await using into = await folder();
    await using backend = await openWasm();
    await using source = await openCheckpoint(SAMPLE_MODEL);
    const given = {
      backend,
      into: into.path,
      calibration: await prepareCalibration(source, { seqLen: 256, numSamples: 8 }),
      evaluation: await prepareWindows(source, { seqLen: 512, numSamples: 4 }),
    };
    const lost: number[] = [];
    for (
      const options of [
        { method: "rtn" },
        { method: "gptq", propagate: false },
        { method: "awq+gptq" },
      ]
    ) {
      const all = { scheme, "group-size": 64, ...options };
      const { report } = await quantize(SAMPLE_MODEL.pathname, all, given);
      lost.push(report.scores.divergence!.mean!);
    }
    const [rounded, solved, whole] = lost as [number, number, number];
    assert.ok(solved < 0.8 * rounded && whole < 0.97 * solved, lost.join(" → "));
  });
}
