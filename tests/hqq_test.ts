/**
 * HQQ: better than the range, never worse than its rivals at 3 bits and below, rows apart, int
 * only.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import { hqq } from "../src/methods/hqq.ts";
import { chainNamed } from "../src/methods/mod.ts";
import { rtn } from "../src/methods/rtn.ts";
import type { RoundingMethod } from "../src/method.ts";
import type { OptionValues } from "../src/option.ts";
import type { IntScheme, Scheme } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { gaussian } from "./conformance/given.ts";
import { inFolder, sluice } from "./cli/host.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";
import { onEveryBackend } from "./present.ts";

function int(bits: IntScheme["bits"], options: Partial<IntScheme> = {}): IntScheme {
  return {
    kind: "int",
    bits,
    grid: "affine",
    strategy: { kind: "group", size: 32 },
    scaleDType: "bf16",
    activations: "none",
    ...options,
  };
}

const [ROWS, COLUMNS] = [11, 96];
/** Weights with a few outliers, as language models have them. */
const WEIGHTS = gaussian(ROWS * COLUMNS, 31, 0.02).map((w, i) => i % 41 === 7 ? 5 * w : w);

function upload(values: Float32Array<ArrayBuffer>, shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  scope.backend.write(tensor, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  return tensor;
}

/** What rows of the weights become. */
async function round(
  method: RoundingMethod,
  scheme: Scheme,
  { backend, options = {}, rows = [0, ROWS] }: {
    backend: Backend;
    options?: OptionValues;
    rows?: readonly [from: number, to: number];
  },
): Promise<{ codes: number[]; values: Float32Array }> {
  using scope = backend.scope();
  const [from, to] = rows;
  const weight = upload(
    WEIGHTS.slice(from * COLUMNS, to * COLUMNS),
    [to - from, COLUMNS],
    scope,
  );
  const rounder = await method.open({ names: ["w"], scheme, options, scope, report: () => {} });
  const { quantized } = await rounder.round({ weight, scope });
  const [codes, values] = await backend.read(
    quantized.tensors.codes!,
    schemeKind(scheme).dequantize(quantized, scope),
  );
  return { codes: [...codes!], values: new Float32Array(values!.buffer) };
}

/** Σ |w − ŵ|^power of each group of 32. */
function errors(values: Float32Array, power: 1 | 2): number[] {
  const sums = new Array<number>(values.length / 32).fill(0);
  values.forEach((value, i) => sums[i >> 5]! += Math.abs(value - WEIGHTS[i]!) ** power);
  return sums;
}

const total = (sums: readonly number[]) => sums.reduce((a, b) => a + b, 0);

onEveryBackend(
  "hqq misses weights by less than their range does, group by group",
  async (backend) => {
    for (const grid of ["affine", "full", "restricted"] as const) {
      const scheme = int(4, { grid });
      const found = errors((await round(hqq, scheme, { backend })).values, 1);
      const plain = errors((await round(rtn, scheme, { backend })).values, 1);
      found.forEach((error, i) => assert.ok(error <= plain[i]! * (1 + 1e-5), `group ${i}`));
      assert.ok(total(found) < 0.99 * total(plain), `${grid}: ${total(found)} of ${total(plain)}`);
    }
  },
);

onEveryBackend(
  "at 3 bits and below hqq is never worse than min-max or least squares",
  async (backend) => {
    for (const bits of [2, 3] as const) {
      for (const grid of ["affine", "full"] as const) {
        const scheme = int(bits, { grid });
        const found = errors((await round(hqq, scheme, { backend })).values, 2);
        for (const scale of ["minmax", "frobenius"]) {
          const options = { scale };
          const other = errors((await round(rtn, scheme, { backend, options })).values, 2);
          found.forEach((error, i) => {
            assert.ok(error <= other[i]! * (1 + 1e-5), `${bits} ${grid} ${scale}, group ${i}`);
          });
        }
      }
    }
  },
);

onEveryBackend("hqq rounds slices of rows as the whole", async (backend) => {
  for (const scheme of [int(4), int(3), int(2, { strategy: { kind: "channel" } })]) {
    const whole = await round(hqq, scheme, { backend });
    const parts = [
      await round(hqq, scheme, { backend, rows: [0, 3] }),
      await round(hqq, scheme, { backend, rows: [3, ROWS] }),
    ];
    assert.deepEqual(parts.flatMap(({ codes }) => codes), whole.codes);
  }
});

Deno.test("hqq is for int, needs no data, and can follow awq", () => {
  assert.equal(hqq.supports(int(4), {}), true);
  const fp8 = {
    kind: "fp8",
    strategy: { kind: "channel" },
    scaleDType: "f32",
    activations: "none",
  } as const;
  assert.match(String(hqq.supports(fp8, {})), /of int, not of fp8/);
  assert.deepEqual(hqq.needs(int(4), {}), []);
  assert.equal(chainNamed("awq+hqq").name, "awq+hqq");
});

Deno.test("quantize --method hqq writes what verify reads, and refuses other schemes", () =>
  inFolder(async (folder) => {
    const made = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(made, `${folder}/model`);
    const quantize = (scheme: string, ...words: string[]) =>
      sluice([
        ...["quantize", `${folder}/model`, "--scheme", scheme, "--method", "hqq"],
        ...["--output", `${folder}/${scheme}`, "--device", "wasm", ...words],
      ]);
    for (const scheme of ["W4A16_ASYM", "W3A16"]) {
      const done = await quantize(scheme, "--group-size", "32");
      assert.equal(done.code, 0, done.err);
      const words = ["verify", `${folder}/${scheme}`, "--source", `${folder}/model`];
      const checked = await sluice([...words, "--device", "wasm"]);
      assert.equal(checked.code, 0, checked.err);
    }
    const refused = await quantize("NF4");
    assert.equal(refused.code, 1);
    assert.match(refused.err, /hqq finds scales and zero points of int, not of nf4/);
  }));
