/** Signatures: solving dimensions, and what is said of calls that do not fit them. */
import assert from "node:assert/strict";
import {
  bindDims,
  deviceBytes,
  type DeviceDType,
  dimNames,
  fold,
  parseSignature,
  spread,
} from "../src/op.ts";
import { matmulNt } from "../src/ops/matmul_nt.ts";
import { OPS } from "../src/ops/mod.ts";
import { packBits } from "../src/ops/pack_bits.ts";
import { quantizeInt } from "../src/ops/quantize_int.ts";
import type { Shape } from "../src/tensor.ts";

function tensor(dtype: DeviceDType, ...shape: number[]): { dtype: DeviceDType; shape: Shape } {
  return { dtype, shape };
}

const GOOD = { x: tensor("f32", 2, 3), w: tensor("bf16", 5, 3), y: tensor("f32", 2, 9) };

Deno.test("bindDims() solves every dimension of a call that fits", () => {
  assert.deepEqual(bindDims(matmulNt, GOOD, { column: 4 }), { T: 2, C: 3, R: 5, Y: 9 });
});

for (
  const { wrong, tensors, scalars, error, message } of [
    {
      wrong: "two shapes that disagree, naming both arguments",
      tensors: { ...GOOD, w: tensor("bf16", 5, 4) },
      error: "RangeError",
      message: 'Cannot run matmul_nt: "w" has C = 4 and "x" has C = 3',
    },
    {
      wrong: "an output whose shape disagrees, naming both arguments",
      tensors: { ...GOOD, y: tensor("f32", 7, 9) },
      error: "RangeError",
      message: 'Cannot run matmul_nt: "y" has T = 7 and "x" has T = 2',
    },
    {
      wrong: "an argument that is missing",
      tensors: { x: GOOD.x, y: GOOD.y },
      error: "TypeError",
      message: 'Cannot run matmul_nt: argument "w" is missing',
    },
    {
      wrong: "an argument it does not have",
      tensors: { ...GOOD, bias: tensor("f32", 5) },
      error: "TypeError",
      message: 'Cannot run matmul_nt: it has no argument "bias"',
    },
    {
      wrong: "another dtype",
      tensors: { ...GOOD, w: tensor("i8", 5, 3) },
      error: "TypeError",
      message: 'Cannot run matmul_nt: "w" must be f32|bf16|f16[R, C], got i8[5,3]',
    },
    {
      wrong: "another rank",
      tensors: { ...GOOD, x: tensor("f32", 6) },
      error: "TypeError",
      message: 'Cannot run matmul_nt: "x" must be f32[T, C], got f32[6]',
    },
    {
      wrong: "a scalar that is missing",
      tensors: GOOD,
      scalars: {},
      error: "TypeError",
      message: 'Cannot run matmul_nt: scalar "column" is missing',
    },
    {
      wrong: "a scalar it does not have",
      tensors: GOOD,
      scalars: { column: 0, bits: 4 },
      error: "TypeError",
      message: 'Cannot run matmul_nt: it has no scalar "bits"',
    },
    ...[-1, 0.5, NaN, 2 ** 32].map((column) => ({
      wrong: `${column} for a whole number`,
      tensors: GOOD,
      scalars: { column },
      error: "RangeError",
      message:
        `Cannot run matmul_nt: "column" must be a whole number from 0 to 2^32 − 1, got ${column}`,
    })),
    {
      wrong: "columns past the end of the result",
      tensors: GOOD,
      scalars: { column: 5 },
      error: "RangeError",
      message: "Cannot run matmul_nt: R = 5 columns from 5 on do not fit in Y = 9",
    },
  ]
) {
  Deno.test(`bindDims() refuses ${wrong}`, () => {
    assert.throws(() => bindDims(matmulNt, tensors, scalars ?? { column: 0 }), {
      name: error,
      message,
    });
  });
}

Deno.test("bindDims() refuses scales that are not one a tile, and says how many tiles there are", () => {
  const tensors = {
    w: tensor("f32", 4, 65),
    scale: tensor("f32", 4, 2),
    zero: tensor("i8", 4, 2),
    codes: tensor("i8", 4, 65),
  };
  const scalars = { bits: 4, grid: 0, tile_rows: 1, tile_columns: 32 };
  assert.throws(() => bindDims(quantizeInt, tensors, scalars), {
    name: "RangeError",
    message: "Cannot run quantize_int: 4×65 in tiles of 1×32 has 4×3 tiles, got A×B = 4×2",
  });
  assert.throws(() => bindDims(quantizeInt, tensors, { ...scalars, bits: 9 }), {
    message: "Cannot run quantize_int: bits must be 2 to 8, got 9",
  });
});

Deno.test("bindDims() refuses packed words that do not hold a row of codes", () => {
  const tensors = { codes: tensor("i8", 2, 11), packed: tensor("u32", 2, 1) };
  assert.throws(() => bindDims(packBits, tensors, { bits: 3 }), {
    message: "Cannot run pack_bits: 11 codes of 3 bits fill P = 2 words a row, got 1",
  });
});

Deno.test("dimNames() gives dimensions in the order they first appear", () => {
  assert.deepEqual(dimNames(matmulNt), ["T", "C", "R", "Y"]);
});

Deno.test("fold() keeps every dimension of a dispatch within 65535 and covers the count", () => {
  for (const groups of [0, 1, 65535, 65536, 65537, 131071, 10_000_019]) {
    const [x, y, z] = fold(groups);
    assert.ok(x <= 65535 && y <= 65535 && z === 1, `${groups}: ${x}×${y}×${z}`);
    assert.ok(x * y >= groups && x * y - groups <= y, `${groups}: ${x}×${y}`);
  }
  assert.deepEqual(spread(129), [3, 1, 1]);
});

Deno.test("deviceBytes() rounds up to whole words, and no tensor is without memory", () => {
  assert.equal(deviceBytes(tensor("i8", 5)), 8);
  assert.equal(deviceBytes(tensor("bf16", 3, 1)), 8);
  assert.equal(deviceBytes(tensor("f32", 3)), 12);
  assert.equal(deviceBytes(tensor("u8", 0)), 4);
});

for (const op of OPS) {
  Deno.test(`${op.name} has a signature that backends can lay out`, () => {
    const dtypes = ["f32", "bf16", "f16", "f8_e4m3", "i8", "u8", "i32", "u32"];
    for (const signature of Object.values({ ...op.inputs, ...op.outputs })) {
      const parsed = parseSignature(signature);
      assert.ok(parsed.dtypes.every((dtype) => dtypes.includes(dtype)), signature);
      assert.ok(parsed.dims.every((dim) => /^[A-Z]$/.test(dim)), signature);
    }
    assert.ok(Object.keys(op.outputs).length > 0);
    assert.match(op.name, /^[a-z0-9]+(_[a-z0-9]+)*$/);
    assert.match(op.wgsl, /@compute/);
  });
}
