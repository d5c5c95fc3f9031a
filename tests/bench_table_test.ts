/** The table that `deno task bench` prints. */
import assert from "node:assert/strict";
import { flopRate, formatRatios } from "./bench/measure.ts";

Deno.test("a ratio below its goal is marked, notes are numbered once, what was skipped is told", () => {
  const device = "CPU, 1 thread";
  const text = formatRatios([
    {
      what: "copy",
      ours: "1.9 GB/s",
      against: "cp: 2.0 GB/s",
      ratio: 0.95,
      goal: 0.9,
      device,
      detail: "warm",
    },
    {
      what: "hash",
      ours: "1.0 GB/s",
      against: "sha256sum: 2.0 GB/s",
      ratio: 0.5,
      goal: 0.9,
      device,
      detail: "warm",
    },
    { what: "alone", ours: "3 s", device, detail: "cold" },
    { skipped: "torch. There is none." },
  ]);
  assert.deepEqual(text.split("\n").map((line) => line.replace(/ {2,}/g, " | ")), [
    "what | ours | rival or limit | ratio | goal | device",
    "copy [1] | 1.9 GB/s | cp: 2.0 GB/s | 0.95 | 0.9 | CPU, 1 thread",
    "hash [1] | 1.0 GB/s | sha256sum: 2.0 GB/s | 0.50 | 0.9, missed | CPU, 1 thread",
    "alone [2] | 3 s | CPU, 1 thread",
    "",
    "[1] warm",
    "[2] cold",
    "",
    "Skipped: torch. There is none.",
    "",
  ]);
});

Deno.test("rates of operations have three digits and the unit that suits them", () => {
  assert.equal(flopRate(1.234e9), "1.23 GFLOP/s");
  assert.equal(flopRate(238.4e9), "238 GFLOP/s");
  assert.equal(flopRate(20.04e12), "20 TFLOP/s");
});
