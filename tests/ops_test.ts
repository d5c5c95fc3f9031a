/**
 * Definitions against numbers that are not ours: bitsandbytes, torch, and values worked out by
 * hand.
 */
import assert from "node:assert/strict";
import type { Backend, Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { DYNAMIC_MAP, FP4_TABLE, NF4_TABLE } from "../src/ops/codebook.ts";
import type { DeviceDType, Op, Scalars } from "../src/op.ts";
import { attention } from "../src/ops/attention.ts";
import { dequantize4bit } from "../src/ops/dequantize_4bit.ts";
import { divergence } from "../src/ops/divergence.ts";
import { outlierColumns } from "../src/ops/outlier_columns.ts";
import { packBits } from "../src/ops/pack_bits.ts";
import { quantize4bit } from "../src/ops/quantize_4bit.ts";
import { quantizeDynamic8 } from "../src/ops/quantize_dynamic8.ts";
import { quantizeInt } from "../src/ops/quantize_int.ts";
import { quantizeRowsInt8 } from "../src/ops/quantize_rows_int8.ts";
import { rmsNorm } from "../src/ops/rms_norm.ts";
import { rope } from "../src/ops/rope.ts";
import { scaleParams } from "../src/ops/scale_params.ts";
import { searchParams } from "../src/ops/search_params.ts";
import type { Shape } from "../src/tensor.ts";
import golden from "./golden/ops.json" with { type: "json" };
import { bytesOf, floatsOf } from "./golden/hex.ts";

/** One argument: `[dtype, shape, content]`; without content it starts as zeros. */
type Argument = readonly [
  dtype: DeviceDType,
  shape: Shape,
  content?: ArrayBufferView<ArrayBuffer>,
];

/** Run a definition and give the bytes of its outputs by name. */
async function define(
  op: Op,
  args: Readonly<Record<string, Argument>>,
  scalars: Scalars = {},
): Promise<Record<string, Uint8Array<ArrayBuffer>>> {
  await using backend: Backend = referenceBackend();
  const tensors: Record<string, Tensor> = {};
  for (const [name, [dtype, shape, content]] of Object.entries(args)) {
    tensors[name] = backend.alloc(dtype, shape);
    if (!content) continue;
    backend.write(
      tensors[name],
      new Uint8Array(content.buffer, content.byteOffset, content.byteLength),
    );
  }
  backend.run(op, tensors, scalars);
  const names = Object.keys(op.outputs);
  const bytes = await backend.read(...names.map((name) => tensors[name]!));
  return Object.fromEntries(names.map((name, i) => [name, bytes[i]!]));
}

function f32(bytes: Uint8Array<ArrayBuffer>): number[] {
  return [...new Float32Array(bytes.buffer)];
}

function i8(bytes: Uint8Array<ArrayBuffer>): number[] {
  return [...new Int8Array(bytes.buffer)];
}

for (const [kind, table] of [[0, NF4_TABLE], [1, FP4_TABLE]] as const) {
  const name = (["nf4", "fp4"] as const)[kind];
  Deno.test(`quantize_4bit gives the ${name} codes and absmax of bitsandbytes, and dequantize_4bit its values`, async () => {
    const { codes, absmax } = await define(quantize4bit, {
      w: ["bf16", [167], bytesOf(golden.weight)],
      codes: ["u8", [84]],
      absmax: ["f32", [6]],
    }, { block: 32, kind, given: 0 });
    assert.deepEqual(codes, bytesOf(golden[name].codes));
    assert.deepEqual(f32(absmax!), [...floatsOf(golden[name].absmax)]);
    const { w } = await define(dequantize4bit, {
      codes: ["u8", [84], codes!],
      absmax: ["f32", [6], absmax!],
      w: ["f32", [167]],
    }, { block: 32, kind });
    // bitsandbytes keeps FP4's second zero as 0, which may be −0 times an absmax here; === does not
    // tell them apart.
    floatsOf(golden[name].values).forEach((value, i) => assert.ok(f32(w!)[i] === value));
    assert.equal(new Set(table).size, kind === 0 ? 16 : 15);
  });
}

Deno.test("quantize_dynamic8 gives the codes and absmax of bitsandbytes, with the table it builds", async () => {
  assert.deepEqual([...DYNAMIC_MAP], [...floatsOf(golden.dynamic8.table)]);
  const { codes, absmax } = await define(quantizeDynamic8, {
    x: ["f32", [300], floatsOf(golden.dynamic8.x)],
    table: ["f32", [256], DYNAMIC_MAP],
    codes: ["u8", [300]],
    absmax: ["f32", [2]],
  }, { block: 256, offset: golden.dynamic8.offset });
  assert.deepEqual(codes, bytesOf(golden.dynamic8.codes));
  assert.deepEqual(f32(absmax!), [...floatsOf(golden.dynamic8.absmax)]);
});

Deno.test("outlier_columns and quantize_rows_int8 give what bitsandbytes' int8_vectorwise_quant gives", async () => {
  const { x, threshold, columns: want } = golden.rows_int8;
  const { skip, columns } = await define(outlierColumns, {
    x: ["f32", [6, 20], bytesOf(x)],
    skip: ["u32", [20]],
    columns: ["u32", [21]],
  }, { threshold });
  const list = new Uint32Array(columns!.buffer);
  assert.deepEqual([...list.subarray(1, 1 + list[0]!)], want);
  const { codes, absmax } = await define(quantizeRowsInt8, {
    x: ["f32", [6, 20], bytesOf(x)],
    skip: ["u32", [20], skip!],
    codes: ["i8", [6, 20]],
    absmax: ["f32", [6]],
  }, { threshold });
  assert.deepEqual(codes, bytesOf(golden.rows_int8.codes));
  assert.deepEqual(f32(absmax!), [...floatsOf(golden.rows_int8.absmax)]);
});

Deno.test("scale_params follows the four grids", async () => {
  const params = async (bits: number, grid: number) => {
    const { scale, zero } = await define(scaleParams, {
      low: ["f32", [1, 3], Float32Array.of(-1, 0, 0.5)],
      high: ["f32", [1, 3], Float32Array.of(2, 0, 3)],
      scale: ["f32", [1, 3]],
      zero: ["i8", [1, 3]],
    }, { bits, grid, scale_dtype: 0 });
    return { scale: f32(scale!), zero: i8(zero!) };
  };
  const near = (...values: number[]) => values.map(Math.fround);
  assert.deepEqual(await params(4, 0), { scale: near(2 / 7.5, 1, 3 / 7.5), zero: [0, 0, 0] });
  assert.deepEqual(await params(4, 1), { scale: near(2 / 7, 1, 3 / 7), zero: [0, 0, 0] });
  // −1 … 2 in 15 steps of 0.2: 0 is the fifth from −8; a range above 0 is stretched to 0.
  assert.deepEqual(await params(4, 2), { scale: near(3 / 15, 1, 3 / 15), zero: [-3, -8, -8] });
  assert.deepEqual(await params(8, 3), { scale: near(2 / 448, 1, 3 / 448), zero: [0, 0, 0] });
});

Deno.test("scale_params rounds the scale to its dtype and keeps it a normal number", async () => {
  for (const [scale_dtype, want] of [[1, 0.1337890625], [2, 0.1333007812]] as const) {
    const { scale } = await define(scaleParams, {
      low: ["f32", [1, 2], Float32Array.of(-1, 0)],
      high: ["f32", [1, 2], Float32Array.of(0, 1e-44)],
      scale: ["f32", [1, 2]],
      zero: ["i8", [1, 2]],
    }, { bits: 4, grid: 0, scale_dtype });
    assert.ok(Math.abs(f32(scale!)[0]! - want) < 1e-9, `${f32(scale!)[0]}`);
    assert.equal(f32(scale!)[1], scale_dtype === 1 ? 2 ** -126 : 2 ** -14);
  }
});

Deno.test("quantize_int rounds ties to even and clips to its grid", async () => {
  const weights = Float32Array.of(0.5, 1.5, -0.5, -1.5, 2.5, 9, -9, 7.4);
  const codes = async (grid: number) => {
    const result = await define(quantizeInt, {
      w: ["f32", [1, 8], weights],
      scale: ["f32", [1, 1], Float32Array.of(1)],
      zero: ["i8", [1, 1]],
      codes: ["i8", [1, 8]],
    }, { bits: 4, grid, tile_rows: 1, tile_columns: 8 });
    return i8(result.codes!);
  };
  assert.deepEqual(await codes(0), [0, 2, 0, -2, 2, 7, -8, 7]);
  assert.deepEqual(await codes(1), [0, 2, 0, -2, 2, 7, -7, 7]);
});

Deno.test("search_params shrinks the range where one outlier would cost the rest its precision", async () => {
  const weights = Float32Array.from({ length: 64 }, (_, i) => i === 9 ? 1.4 : Math.sin(i) * 0.8);
  for (const objective of [0, 1]) {
    const { scale } = await define(searchParams, {
      w: ["f32", [1, 64], weights],
      importance: ["f32", [1, 64], new Float32Array(64).fill(1)],
      scale: ["f32", [1, 1]],
      zero: ["i8", [1, 1]],
    }, { bits: 3, grid: 0, tile_rows: 1, tile_columns: 64, scale_dtype: 0, objective, signed: 0 });
    const plain = 1.4 / 3.5;
    assert.ok(f32(scale!)[0]! < plain * 0.99, `${f32(scale!)[0]} is not below ${plain}`);
  }
});

Deno.test("search_params covers the outlier after all where its column counts for more than the others", async () => {
  const weights = Float32Array.from({ length: 64 }, (_, i) => i === 9 ? 1.4 : Math.sin(i) * 0.8);
  const { scale } = await define(searchParams, {
    w: ["f32", [1, 64], weights],
    importance: ["f32", [1, 64], Float32Array.from(weights, (w) => w === weights[9] ? 1e4 : 1)],
    scale: ["f32", [1, 1]],
    zero: ["i8", [1, 1]],
  }, { bits: 3, grid: 1, tile_rows: 1, tile_columns: 64, scale_dtype: 0, objective: 1, signed: 0 });
  const whole = Array.from([1, 2, 3], (code) => Math.abs(1.4 - code * f32(scale!)[0]!));
  assert.ok(Math.min(...whole) < 1e-3, `no code times ${f32(scale!)[0]} is near 1.4`);
});

Deno.test("search_params with signed scales meets the largest weight with the lowest code, which has no opposite", async () => {
  for (const sign of [1, -1]) {
    const { scale } = await define(searchParams, {
      w: ["f32", [1, 4], Float32Array.of(4 * sign, -3 * sign, 2 * sign, sign)],
      importance: ["f32", [1, 4], Float32Array.of(1, 1, 1, 1)],
      scale: ["f32", [1, 1]],
      zero: ["i8", [1, 1]],
    }, {
      bits: 3,
      grid: 0,
      tile_rows: 1,
      tile_columns: 4,
      scale_dtype: 0,
      objective: 1,
      signed: 1,
    });
    // −4 … 3 times −1 holds 4 and −3 exactly; times 1 it would clip 4 to 3.
    assert.equal(f32(scale!)[0], -sign);
  }
});

Deno.test("pack_bits writes 3-bit codes lowest bit first, across words", async () => {
  // Eleven fields of 3 bits: 0 1 2 3 4 5 6 7 0 1 | the tenth crosses into the second word's first
  // bit.
  const { packed } = await define(packBits, {
    codes: ["i8", [1, 11], Int8Array.of(-4, -3, -2, -1, 0, 1, 2, 3, -4, -3, 3)],
    packed: ["u32", [1, 2]],
  }, { bits: 3 });
  const stream = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 7].reduce(
    (bits, field, i) => bits | (BigInt(field) << BigInt(3 * i)),
    0n,
  );
  assert.deepEqual([...new Uint32Array(packed!.buffer)], [
    Number(stream & 0xffffffffn),
    Number(stream >> 32n),
  ]);
});

Deno.test("rope turns the two halves of a head, and rms_norm gives rows of unit size", async () => {
  const quarter = { cos: Float32Array.of(0), sin: Float32Array.of(1) };
  const { x } = await define(rope, {
    cos: ["f32", [1, 1], quarter.cos],
    sin: ["f32", [1, 1], quarter.sin],
    x: ["f32", [1, 4], Float32Array.of(1, 2, 3, 4)],
  }, { head_dim: 2, adjacent: 0 });
  assert.deepEqual(f32(x!), [-2, 1, -4, 3]);
  const { y } = await define(rmsNorm, {
    x: ["f32", [1, 2], Float32Array.of(3, 4)],
    weight: ["f32", [2], Float32Array.of(1, 2)],
    y: ["f32", [1, 2]],
  }, { eps: 0, plus: 0 });
  assert.deepEqual(f32(y!), [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)].map(Math.fround));
});

Deno.test("attention averages what it may see: causal, windowed, with shared heads", async () => {
  // Equal scores everywhere, so each output is the mean of the visible values.
  const run = async (window: number, length = 4) => {
    const { o } = await define(attention, {
      q: ["f32", [4, 2], new Float32Array(8)],
      k: ["f32", [4, 1], Float32Array.of(5, -1, 2, 3)],
      v: ["f32", [4, 1], Float32Array.of(1, 3, 5, 7)],
      bias: ["f32", [1, 1], new Float32Array(1)],
      o: ["f32", [4, 2]],
    }, { head_dim: 1, window, scale: 1, cap: 0, biased: 0, length });
    return f32(o!);
  };
  assert.deepEqual(await run(0), [1, 1, 2, 2, 3, 3, 4, 4]);
  assert.deepEqual(await run(2), [1, 1, 2, 2, 4, 4, 6, 6]);
  assert.deepEqual(await run(0, 2), [1, 1, 2, 2, 5, 5, 6, 6]);
});

Deno.test("divergence over two slices gives the KL divergence and likelihoods of the whole vocabulary", async () => {
  const p = [0.5, -1, 3, 2, 0, 1];
  const q = [0.25, 0, 2, 2.5, 1, 1];
  let state = Float32Array.of(
    -3.4028234663852886e38,
    0,
    -3.4028234663852886e38,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
  );
  for (const first of [0, 3]) {
    const result = await define(divergence, {
      p: ["f32", [1, 3], Float32Array.from(p.slice(first, first + 3))],
      q: ["f32", [1, 3], Float32Array.from(q.slice(first, first + 3))],
      labels: ["u32", [1], Uint32Array.of(4)],
      state: ["f32", [1, 10], state],
    }, { first });
    state = new Float32Array(result.state!.buffer);
  }
  const [mp, sp, mq, sq, cross, lp, lq, ap, aq] = [...state];
  const logSum = (x: number[]) => Math.log(x.reduce((sum, v) => sum + Math.exp(v), 0));
  const want = p.reduce((kl, v, i) => {
    const probability = Math.exp(v - logSum(p));
    return kl + probability * (v - logSum(p) - q[i]! + logSum(q));
  }, 0);
  const got = cross! / sp! - (Math.log(sp!) + mp!) + (Math.log(sq!) + mq!);
  assert.ok(Math.abs(got - want) < 1e-6, `${got} is not ${want}`);
  assert.ok(Math.abs(Math.log(sq!) + mq! - logSum(q)) < 1e-6);
  assert.deepEqual([lp, lq, ap, aq], [0, 1, 2, 3]);
});
