/**
 * Matrices that lie outside the kernels' memory on the CPU: every op that takes them agrees with
 * its definition, by a BLAS and by Sluice's own kernels, and a calibration that keeps all of its
 * matrices there gives the same model.
 */
import assert from "node:assert/strict";
import { type Backend, makeScope } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { allocPanels, isOutside } from "../src/linalg/panels.ts";
import { copy } from "../src/ops/copy.ts";
import { diagonal, gemm, mirror, permuteGram } from "../src/ops/mod.ts";
import { add } from "../src/ops/add.ts";
import { plan } from "../src/plan.ts";
import { requestOf } from "../src/plan/planned.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { open } from "../src/open.ts";
import { prepareCalibration } from "../src/evaluate.ts";
import { ABSENT_BLAS } from "./blas_given.ts";
import { testBackend } from "./conformance/backend.ts";
import { memorySink } from "./memory.ts";

/** A device whose f32 matrices all lie outside. */
function outside(backend: Backend): Backend {
  const own: Backend = new Proxy(backend, {
    get(target, key) {
      if (key === "alloc") {
        return ((dtype, shape) =>
          dtype === "f32" && shape.length === 2
            ? backend.allocOutside!(shape)
            : backend.alloc(dtype, shape)) satisfies Backend["alloc"];
      }
      if (key === "scope") return () => makeScope(own);
      const value = Reflect.get(target, key) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  return own;
}

const OPS = [gemm, copy, mirror, diagonal, permuteGram];

await testBackend(
  "outside wasm's memory",
  async () => outside(await openWasm({ threads: 2 })),
  { ops: OPS },
);

await testBackend(
  "outside wasm's memory, by a BLAS,",
  async () => ABSENT_BLAS ?? outside(await openWasm({ threads: 2, blas: "auto", blasLeast: 1 })),
  { ops: [gemm] },
);

Deno.test("a product of matrices outside is cut into tiles that fill it whole", async () => {
  await using backend = await openWasm({ threads: 2 });
  using scope = backend.scope();
  // Larger than a tile each way, and ragged.
  const [m, n, k] = [1100, 1050, 1030];
  const value = (i: number) => ((i * 2654435761) >>> 24) - 128;
  const [a, b, c] = [[m, k], [n, k], [m, n]].map((shape) =>
    scope.adopt(backend.allocOutside!(shape))
  );
  const whole = (count: number) =>
    new Uint8Array(Float32Array.from({ length: count }, (_, i) => value(i) / 128).buffer);
  backend.write(a!, whole(m * k));
  backend.write(b!, whole(n * k));
  const inside = [[m, k], [n, k], [m, n]].map((shape) => scope.alloc("f32", shape));
  backend.write(inside[0]!, whole(m * k));
  backend.write(inside[1]!, whole(n * k));
  const scalars = {
    ...{ m, n, k, a_row: 0, a_column: 0, a_transposed: 0, b_row: 0, b_column: 0 },
    ...{ b_transposed: 0, c_row: 0, c_column: 0, add: 0, half: 0, diagonal: 0, alpha: 1 },
  };
  backend.run(gemm, { a: a!, b: b!, c: c! }, scalars);
  backend.run(gemm, { a: inside[0]!, b: inside[1]!, c: inside[2]! }, scalars);
  const [got, want] = await backend.read(c!, inside[2]!);
  const [found, right] = [new Float32Array(got!.buffer), new Float32Array(want!.buffer)];
  right.forEach((x, i) => {
    // Both sum k products of at most 1, in another order.
    assert.ok(Math.abs(found[i]! - x) <= 2 * (k + 2) * 2 ** -24 * k, `${i}: ${found[i]}, not ${x}`);
  });
});

Deno.test("a matrix outside is refused by what cannot reach it, and gone when it was freed", async () => {
  await using backend = await openWasm({ threads: 1 });
  const x = backend.allocOutside!([4, 4]);
  const y = backend.alloc("f32", [4, 4]);
  assert.throws(() => backend.run(add, { y, x }, { times: 1, other: 1 }), {
    name: "TypeError",
    message: "Cannot run add with a matrix that is kept outside the kernels' memory",
  });
  x[Symbol.dispose]();
  await assert.rejects(() => backend.read(x), { message: /it was freed/ });
});

Deno.test("large matrices lie outside on the CPU, as large as a plan says, and nowhere else", async () => {
  await using backend = await openWasm({ threads: 1 });
  const { outsideBytes } = backend;
  assert.ok(!isOutside(14_188, 14_188, outsideBytes) && isOutside(14_189, 14_190, outsideBytes));
  assert.ok(!isOutside(100_000, 100_000, undefined));
  using scope = backend.scope();
  const places = () => allocPanels(300, scope).panels.map(({ tensor }) => tensor.outside ?? false);
  assert.deepEqual(places(), [false]);
  {
    using _ = backend.keepOutside!(300 * 300 * 4);
    assert.deepEqual(places(), [true]);
  }
  assert.deepEqual(places(), [false]);
});

for (const method of ["gptq", "awq+gptq"]) {
  for (const blas of ["none", "auto"]) {
    const by = blas === "none" ? "" : " by a BLAS";
    const name = `${method}${by} with every matrix outside gives the same model`;
    const ignore = blas === "auto" && ABSENT_BLAS !== undefined;
    Deno.test({ name, ignore }, async () => {
      await using source = await open("sample");
      const calibration = await prepareCalibration(source, { seqLen: 64, numSamples: 4 });
      const recipe = recipeFromOptions({ scheme: "W4A16", "group-size": 32, method });
      const made = [];
      for (const outsideBytes of [Infinity, 1]) {
        await using backend = await openWasm({ threads: 2, blas });
        const device = { ...backend, supports: () => true as const, outsideBytes };
        const work = plan(recipe, source, { device, calibration: requestOf(calibration) });
        const sink = memorySink();
        await run(work, { source, backend, sink, calibration });
        made.push({ work, files: sink.files });
      }
      const [inside, apart] = made as [typeof made[0], typeof made[0]];
      assert.ok(inside.files.size > 0);
      assert.deepEqual(apart.files, inside.files);
      // What lies outside is not the device's, and is planned all the same.
      assert.ok(apart.work.memory.device < inside.work.memory.device);
      assert.ok(Math.abs(apart.work.memory.peak / inside.work.memory.peak - 1) < 0.05);
    });
  }
}
