/**
 * AWQ: the scales it finds are the best of those it says it tries, by an independent reckoning;
 * channels that must share one do.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import type { SmoothableWeight, SmoothingScales } from "../src/method.ts";
import { awq } from "../src/methods/awq.ts";
import { rtn } from "../src/methods/rtn.ts";
import { roundHalfEven } from "../src/number.ts";
import { Statistics } from "../src/observer.ts";
import { gram } from "../src/observers/gram.ts";
import type { IntScheme } from "../src/scheme.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

const [TOKENS, CHANNELS, ROWS] = [101, 70, 33] as const;

const SCHEME: IntScheme = {
  kind: "int",
  bits: 4,
  grid: "affine",
  strategy: { kind: "channel" },
  scaleDType: "f32",
  activations: "none",
};

/** Inputs with some channels louder than others. */
function inputs(loudness: (channel: number) => number): Float32Array<ArrayBuffer> {
  return gaussian(TOKENS * CHANNELS, 3).map((value, i) => value * loudness(i % CHANNELS));
}

const weightValues = gaussian(ROWS * CHANNELS, 4);

function upload(values: Float32Array<ArrayBuffer>, columns: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", [values.length / columns, columns]);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

async function scale(
  x: Float32Array<ArrayBuffer>,
  { backend, shared }: { backend: Backend; shared?: Uint32Array },
): Promise<SmoothingScales | undefined> {
  using scope = backend.scope();
  const observation = gram.open({ channels: CHANNELS, tokens: x.length / CHANNELS, scope });
  await observation.add(upload(x, CHANNELS, scope));
  const statistics = new Statistics(new Map([[gram, await observation.finish()]]), {
    channels: CHANNELS,
    tokens: TOKENS,
  });
  const weight: SmoothableWeight = {
    name: "w",
    rows: ROWS,
    scheme: SCHEME,
    take: (ids, scope) =>
      upload(
        Float32Array.from(
          [...ids].flatMap((id) => [...weightValues.subarray(id * CHANNELS, (id + 1) * CHANNELS)]),
        ),
        CHANNELS,
        scope,
      ),
    alike: SCHEME,
    rounder: async () =>
      await rtn.open({
        names: ["w"],
        scheme: SCHEME,
        options: { scale: "minmax" },
        statistics,
        scope,
        report: () => {},
      }),
  };
  return await awq.smooth({
    weights: [weight],
    options: { "awq-rows": ROWS },
    statistics,
    backend,
    shared,
    report: () => {},
  });
}

/** ‖(W − Q(W·s)/s)·xᵀ‖², rounding each row to nearest in float64. */
function outputError(x: Float32Array, scales: ArrayLike<number>): number {
  let all = 0;
  for (let r = 0; r < ROWS; r++) {
    const row = Array.from({ length: CHANNELS }, (_, c) => weightValues[r * CHANNELS + c]!);
    const scaled = row.map((value, c) => value * scales[c]!);
    const [low, high] = [Math.min(0, ...scaled), Math.max(0, ...scaled)];
    const step = Math.fround(Math.fround(high - low) / 15);
    const zero = roundHalfEven(-low / step);
    const error = row.map((value, c) => {
      const code = Math.min(15, Math.max(0, roundHalfEven(scaled[c]! / step) + zero));
      return (code - zero) * step / scales[c]! - value;
    });
    for (let t = 0; t < TOKENS; t++) {
      all += error.reduce((sum, e, c) => sum + e * x[t * CHANNELS + c]!, 0) ** 2;
    }
  }
  return all;
}

/** rms(x)^ratio, the largest and the smallest as far from 1. */
function scalesFor(x: Float32Array, ratio: number): number[] {
  const powers = Array.from({ length: CHANNELS }, (_, c) => {
    let squares = 0;
    for (let t = 0; t < TOKENS; t++) squares += x[t * CHANNELS + c]! ** 2;
    return Math.sqrt(squares / TOKENS) ** ratio;
  });
  const middle = Math.sqrt(Math.min(...powers) * Math.max(...powers));
  return powers.map((power) => power / middle);
}

onEveryBackend(
  "awq finds the exponent with the least output error, and its scales",
  async (backend) => {
    const x = inputs((channel) => channel % 9 === 2 ? 12 : 0.5 + channel % 4);
    const found = await scale(x, { backend });
    assert.ok(found);
    const ratios = Array.from({ length: 21 }, (_, i) => i / 20);
    const errors = ratios.map((ratio) => outputError(x, scalesFor(x, ratio)));
    const error = outputError(x, scalesFor(x, found.strength));
    // Up in tenths until it gets worse, then half a step: never worse than its neighbours.
    const at = Math.round(found.strength * 20);
    assert.ok(error <= 1.0001 * errors[at - 1]! && error <= 1.0001 * errors[at + 1]!);
    assert.ok(error < 0.9 * errors[0]!, `${errors[0]} without scales, ${error} with`);
    scalesFor(x, found.strength).forEach((wanted, c) =>
      assert.ok(Math.abs(found.scales[c]! / wanted - 1) < 1e-4)
    );
  },
);

onEveryBackend("awq gives channels that one row makes one scale", async (backend) => {
  const x = inputs((channel) => channel % 9 === 2 ? 12 : 0.5 + channel % 4);
  const shared = Uint32Array.from({ length: CHANNELS }, (_, c) => c % 35);
  const found = await scale(x, { backend, shared });
  assert.ok(found && new Set(found.scales).size > 10);
  found.scales.forEach((scale, c) => assert.equal(scale, found.scales[(c + 35) % CHANNELS]));
});

onEveryBackend("awq leaves alone what scales cannot improve", async (backend) => {
  // Every channel has the same size.
  const x = inputs(() => 1).map((value) => Math.sign(value));
  assert.equal(await scale(x, { backend }), undefined);
});
