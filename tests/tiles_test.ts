/** Which kernel a matrix product gets, and how kernels are written out. */
import assert from "node:assert/strict";
import { bindDims, chosenVariant, type Op, type Scalars } from "../src/op.ts";
import { attention, gemm, matmulNt, matmulPacked } from "../src/ops/mod.ts";
import { tileSide } from "../src/ops/tiles.ts";
import { unroll } from "../src/ops/unroll.ts";
import type { DType, Shape } from "../src/tensor.ts";

/** The name of what a GPU runs for a call. */
function kernel(
  op: Op,
  tensors: Readonly<Record<string, readonly [dtype: DType, shape: Shape]>>,
  scalars: Scalars,
): string {
  const given = Object.fromEntries(
    Object.entries(tensors).map(([name, [dtype, shape]]) => [name, { dtype, shape }]),
  );
  const dims = bindDims(op, given, scalars);
  const dtypes = Object.values(given).map(({ dtype }) => dtype);
  return chosenVariant(op, { dims, scalars, dtypes }).name;
}

function float(
  dtype: DType,
  { T, R, C, Y = R, column = 0 }: Record<"T" | "R" | "C", number> & { Y?: number; column?: number },
): string {
  const tensors = { x: ["f32", [T, C]], w: [dtype, [R, C]], y: ["f32", [T, Y]] } as const;
  return kernel(matmulNt, tensors, { column });
}

Deno.test("tileSide() takes large tiles where there are enough of them for a large GPU", () => {
  assert.equal(tileSide(512 * 4096), 64);
  assert.equal(tileSide(512 * 14336), 128);
  assert.equal(tileSide(2048 * 4096), 128);
  assert.equal(tileSide(400 * 128 ** 2 - 1), 64);
  assert.equal(tileSide(400 * 128 ** 2), 128);
  assert.equal(tileSide(1), 64);
});

Deno.test("a float product gets the tile of its size, whatever its dtype, rows and place in y", () => {
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    assert.equal(float(dtype, { T: 512, R: 4096, C: 4096 }), "matmul_nt 64×64");
    assert.equal(float(dtype, { T: 2048, R: 4096, C: 4096 }), "matmul_nt 128×128");
    assert.equal(
      float(dtype, { T: 2047, R: 4099, C: 4, Y: 5001, column: 3 }),
      "matmul_nt 128×128",
    );
    assert.equal(float(dtype, { T: 2048, R: 4096, C: 4097 }), "matmul_nt");
    assert.equal(float(dtype, { T: 3, R: 5, C: 0 }), "matmul_nt");
  }
});

Deno.test("a float product gets a kernel that reads its dtype", () => {
  const { variants } = matmulNt;
  const read = (dtype: DType) => {
    const call = { dims: { T: 1, C: 4, R: 1, Y: 1 }, scalars: { column: 0 } };
    const chosen = chosenVariant(matmulNt, { ...call, dtypes: ["f32", dtype, "f32"] });
    return variants.find(({ op }) => op === chosen)?.op.inputs.w;
  };
  assert.equal(read("f32"), "f32[R, C]");
  assert.equal(read("bf16"), "bf16|f16[R, C]");
  assert.equal(read("f16"), "bf16|f16[R, C]");
});

Deno.test("a packed product gets a tile where a group is whole vectors of four", () => {
  const packed = (T: number, [C, G]: readonly [number, number]) =>
    kernel(matmulPacked, {
      x: ["f32", [T, C]],
      w: ["u32", [4096, Math.ceil(C * 3 / 32)]],
      scale: ["f32", [4096, G]],
      zero: ["i8", [4096, G]],
      y: ["f32", [T, 4096]],
    }, { bits: 3, column: 0 });
  assert.equal(packed(2048, [4096, 32]), "matmul_packed 128×128");
  assert.equal(packed(100, [4096, 1]), "matmul_packed 64×64");
  assert.equal(packed(2048, [36, 2]), "matmul_packed");
  assert.equal(packed(2048, [0, 1]), "matmul_packed");
});

Deno.test("gemm gets a tile where rectangles begin at vectors; of a half, its elements count", () => {
  const places = { a_row: 3, a_column: 0, b_row: 5, b_column: 0, c_row: 1, c_column: 0 };
  const rest = { a_transposed: 0, b_transposed: 0, add: 0, half: 0, diagonal: 0, alpha: 1 };
  const product = (
    [m, n, k]: readonly [number, number, number],
    { width = 4096, ...given }: Scalars & { width?: number } = {},
  ) => {
    const side = ["f32", [5000, width]] as const;
    return kernel(gemm, { a: side, b: side, c: side }, { ...places, ...rest, m, n, k, ...given });
  };
  assert.equal(product([4096, 4096, 64]), "gemm 128×128");
  assert.equal(product([1001, 1003, 63]), "gemm 64×64");
  for (const name of ["a_column", "b_column", "c_column"]) {
    assert.equal(product([1000, 1000, 64], { [name]: 2 }), "gemm", name);
    assert.equal(product([1000, 1000, 64], { [name]: 64 }), "gemm 64×64", name);
  }
  assert.equal(product([1000, 1000, 64], { width: 4098 }), "gemm");
  const gram = { a_transposed: 1, b_transposed: 1, half: 1 };
  assert.equal(product([4096, 4096, 777], gram), "gemm 128×128");
  assert.equal(product([3000, 3000, 777], gram), "gemm 64×64");
  assert.equal(product([3000, 3000, 777], { ...gram, half: 0 }), "gemm 128×128");
  assert.equal(product([2048, 4096, 64], { ...gram, diagonal: 2048 }), "gemm 64×64");
  assert.equal(product([2048, 4096, 64], { ...gram, half: 2 }), "gemm 64×64");
});

Deno.test("attention gets a kernel for the width of its heads, if 4 divides it", () => {
  const attend = (head_dim: number) => {
    const [q, k] = [["f32", [100, 6 * head_dim]], ["f32", [100, 2 * head_dim]]] as const;
    const bias = ["f32", [1, 1]] as const;
    const scalars = { head_dim, window: 0, scale: 1, cap: 0, biased: 0, length: 100 };
    return kernel(attention, { q, k, v: k, bias, o: q }, scalars);
  };
  assert.deepEqual([4, 64, 68, 128, 256].map(attend), [
    ...["attention 64", "attention 64"],
    ...["attention 128", "attention 128", "attention 128"],
  ]);
  assert.deepEqual([1, 31, 126].map(attend), ["attention", "attention", "attention"]);
});

Deno.test("unroll() writes loops out, nested ones and counts by name", () => {
  const text = ["a", "#repeat i 2", "x$i;", "#repeat j MANY", "y$i_$j;", "#end", "#end", "z", ""];
  assert.equal(
    unroll(text.join("\n"), { MANY: 3 }),
    ["a", "x0;", "y0_0;", "y0_1;", "y0_2;", "x1;", "y1_0;", "y1_1;", "y1_2;", "z", ""].join("\n"),
  );
});

Deno.test("unroll() refuses a count that it does not know, and a loop without an end", () => {
  assert.throws(() => unroll("#repeat i MANY\nx$i;\n#end\n", {}), {
    name: "RangeError",
    message: 'Cannot write a loop out: "#repeat i MANY" has no count',
  });
  assert.throws(() => unroll("#repeat i 2\nx$i;\n", {}), {
    name: "SyntaxError",
    message: 'Cannot write a loop out: "#repeat i 2" and "#end" do not match',
  });
});
