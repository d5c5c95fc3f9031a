/**
 * Conversions between floats, checked exhaustively against the platform's own and against torch.
 */
import assert from "node:assert/strict";
import * as fc from "fast-check";
import {
  bf16ToF32,
  e4m3ToF32,
  f16ToF32,
  f32ToBf16,
  f32ToE4m3,
  f32ToF16,
  firstNaN,
  roundHalfEven,
  roundTo,
} from "../src/number.ts";
import golden from "./golden/ops.json" with { type: "json" };
import { bytesOf, floatsOf } from "./golden/hex.ts";

const NARROW = [
  { dtype: "bf16", count: 65536, widen: bf16ToF32, narrow: f32ToBf16 },
  { dtype: "f16", count: 65536, widen: f16ToF32, narrow: f32ToF16 },
  { dtype: "f8_e4m3", count: 256, widen: e4m3ToF32, narrow: f32ToE4m3 },
] as const;

for (const { dtype, count, widen, narrow } of NARROW) {
  Deno.test(`every ${dtype} value survives widening and narrowing`, () => {
    for (let bits = 0; bits < count; bits++) {
      const value = widen(bits);
      if (Number.isNaN(value)) assert.ok(Number.isNaN(widen(narrow(value))), `NaN ${bits}`);
      else assert.equal(narrow(value), bits);
    }
  });

  Deno.test(`narrowing to ${dtype} takes the nearer of two neighbours, and the even one of a tie`, () => {
    const positive = count / 2;
    for (let bits = 0; bits + 1 < positive; bits++) {
      const [low, high] = [widen(bits), widen(bits + 1)];
      if (!Number.isFinite(low) || !Number.isFinite(high)) continue;
      const middle = (low + high) / 2;
      // The midpoint and its f32 neighbours, as far as f32 can tell them from the two values.
      const even = bits % 2 === 0 ? bits : bits + 1;
      if (Math.fround(middle) === middle) assert.equal(narrow(middle), even, `${low} | ${high}`);
      const below = Math.fround(low + (high - low) * 0.49);
      const above = Math.fround(low + (high - low) * 0.51);
      if (below - low < high - below) assert.equal(narrow(below), bits);
      if (above - low > high - above) assert.equal(narrow(above), bits + 1);
    }
  });

  Deno.test(`narrowing to ${dtype} gives the bits that torch gives`, () => {
    const values = floatsOf(golden.narrow.x);
    const raw = bytesOf(golden.narrow[dtype]);
    const want = dtype === "f8_e4m3" ? raw : new Uint16Array(raw.buffer);
    assert.deepEqual([...values].map(narrow), [...want]);
  });
}

Deno.test("every e4m3 value is the one torch reads", () => {
  assert.deepEqual(
    Array.from({ length: 256 }, (_, code) => e4m3ToF32(code)),
    [...floatsOf(golden.e4m3_values)],
  );
});

Deno.test("past its largest value f16 is infinite and e4m3 saturates; NaN stays NaN everywhere", () => {
  assert.equal(f16ToF32(f32ToF16(65520)), Infinity);
  assert.equal(f16ToF32(f32ToF16(65519)), 65504);
  assert.equal(e4m3ToF32(f32ToE4m3(1e9)), 448);
  assert.equal(e4m3ToF32(f32ToE4m3(-Infinity)), -448);
  assert.equal(bf16ToF32(f32ToBf16(3.4e38)), Infinity);
  for (const { widen, narrow } of NARROW) assert.ok(Number.isNaN(widen(narrow(NaN))));
});

Deno.test("roundHalfEven() gives the nearest whole number, and of two as near the even one", () => {
  fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (x) => {
    const rounded = roundHalfEven(x);
    assert.ok(Number.isInteger(rounded));
    if (Math.abs(x) >= 2 ** 52) return rounded === x;
    const distance = Math.abs(x - rounded);
    return distance < 0.5 || (distance === 0.5 && rounded % 2 === 0);
  }));
  // Between 2^51 and 2^52, where halves still exist.
  const large = 2411043366234402;
  assert.deepEqual([large + 0.5, large + 1.5].map(roundHalfEven), [large, large + 2]);
  assert.deepEqual([-large - 0.5, -large - 1.5].map(roundHalfEven), [-large, -large - 2]);
  const pairs = [[0.5, 0], [1.5, 2], [2.5, 2], [-0.5, 0], [-1.5, -2], [0.49999999999999994, 0]];
  for (const [x, want] of pairs) assert.equal(roundHalfEven(x!) + 0, want);
  assert.equal(roundHalfEven(-Infinity), -Infinity);
  assert.ok(Number.isNaN(roundHalfEven(NaN)));
});

Deno.test("roundTo() is idempotent and never moves a value past its neighbours", () => {
  fc.assert(fc.property(fc.float({ noNaN: true }), fc.constantFrom("bf16", "f16"), (x, dtype) => {
    const rounded = roundTo(dtype as "bf16" | "f16", x);
    return Object.is(roundTo(dtype as "bf16" | "f16", rounded), rounded);
  }));
});

Deno.test("firstNaN() finds the first NaN wherever it is, and takes neither infinity nor any number for one", () => {
  const nan = { f32: [0, 0, 0xc0, 0x7f], bf16: [0x81, 0xff], f16: [0x01, 0x7c] } as const;
  const infinite = { f32: [0, 0, 0x80, 0x7f], bf16: [0x80, 0xff], f16: [0, 0x7c] } as const;
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    const width = nan[dtype].length;
    for (const count of [1, 2, 3, 7, 8]) {
      const bytes = Uint8Array.from(
        { length: count * width },
        (_, i) => infinite[dtype][i % width]!,
      );
      assert.equal(firstNaN(dtype, bytes), -1);
      for (let at = count - 1; at >= 0; at--) {
        bytes.set(nan[dtype], at * width);
        assert.equal(firstNaN(dtype, bytes), at, `${dtype} ${count} ${at}`);
        // In the middle of a larger buffer, too.
        const larger = new Uint8Array(bytes.length + 8);
        larger.set(bytes, 2);
        assert.equal(firstNaN(dtype, larger.subarray(2, 2 + bytes.length)), at);
      }
    }
  }
  assert.equal(firstNaN("i32", new Uint8Array(8).fill(255)), -1);
});
