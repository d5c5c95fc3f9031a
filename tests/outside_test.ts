/**
 * Matrices that lie outside the kernels' memory on the CPU: every op that takes them agrees with
 * its definition, by a BLAS and by Sluice's own kernels, and a calibration that keeps all of its
 * matrices there gives the same model.
 */
import assert from "node:assert/strict";
import { type Backend, makeScope } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { allocPanels, placeOf } from "../src/linalg/panels.ts";
import { copy } from "../src/ops/copy.ts";
import { diagonal, gemm, mirror, permuteGram } from "../src/ops/mod.ts";
import { add } from "../src/ops/add.ts";
import { plan } from "../src/plan.ts";
import { requestOf } from "../src/plan/planned.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { run } from "../src/run.ts";
import { open } from "../src/open.ts";
import { prepareCalibration } from "../src/windows.ts";
import { ABSENT_BLAS } from "./blas_given.ts";
import { testBackend } from "./conformance/backend.ts";
import { disk } from "../src/io/disk.ts";
import { memorySink } from "./memory.ts";
import { folder, withOwn } from "./run_given.ts";

/** A device whose f32 matrices all lie outside, or all on disk. */
function outside(
  backend: Backend,
  place: "allocOutside" | "allocOnDisk" = "allocOutside",
): Backend {
  const own: Backend = new Proxy(backend, {
    get(target, key) {
      if (key === "alloc") {
        return ((dtype, shape) =>
          dtype === "f32" && shape.length === 2
            ? backend[place]!(shape)
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
  "on disk",
  async () => {
    const backend = await openWasm({ threads: 2 });
    const path = await Deno.makeTempDir();
    let files = 0;
    backend.placeMatrices!(
      backend.matrixPlaces!,
      (bytes) => disk.openScratch(`${path}/${files++}`, bytes),
    );
    const close = backend[Symbol.asyncDispose].bind(backend);
    return withOwn(outside(backend, "allocOnDisk"), {
      async [Symbol.asyncDispose]() {
        await close();
        // Nothing is left in it.
        await Deno.remove(path);
      },
    });
  },
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
  const place = (size: number) => placeOf([size, size], backend.matrixPlaces);
  assert.deepEqual([14_188, 14_189].map(place), ["device", "outside"]);
  assert.equal(placeOf([100_000, 100_000], undefined), "device");
  using scope = backend.scope();
  const outside = () => allocPanels(300, scope).panels.map(({ tensor }) => tensor.outside ?? false);
  assert.deepEqual(outside(), [false]);
  {
    using _ = backend.placeMatrices!({ outsideBytes: 300 * 300 * 4 });
    assert.deepEqual(outside(), [true]);
  }
  assert.deepEqual(outside(), [false]);
});

for (const method of ["gptq", "awq+gptq"]) {
  for (const blas of ["none", "auto"]) {
    const by = blas === "none" ? "" : " by a BLAS";
    const name = `${method}${by} with every matrix outside, or on disk, gives the same model`;
    const ignore = blas === "auto" && ABSENT_BLAS !== undefined;
    Deno.test({ name, ignore }, async () => {
      await using spill = await folder();
      await using source = await open("sample");
      const calibration = await prepareCalibration(source, {
        ...{ seqLen: 64, numSamples: 4, spillFolder: spill.path },
      });
      const recipe = recipeFromOptions({ scheme: "W4A16", "group-size": 32, method });
      const made = [];
      for (
        const matrixPlaces of [
          { outsideBytes: Infinity },
          { outsideBytes: 1 },
          { outsideBytes: 1, diskBytes: 1 },
        ]
      ) {
        await using wasm = await openWasm({ threads: 2, blas });
        // The widest matrices have three panels.
        const backend = withOwn(wasm, { maxTensorBytes: 2 ** 20 });
        const work = plan(recipe, source, {
          device: withOwn(backend, { matrixPlaces }),
          calibration: requestOf(calibration),
        });
        const sink = memorySink();
        await run(work, { source, backend, sink, calibration });
        const hashes = await Promise.all([...sink.files].map(async ([path, bytes]) => [
          path,
          new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex(),
        ]));
        made.push({ memory: work.memory, hashes });
        assert.deepEqual([...Deno.readDirSync(spill.path)], []);
      }
      const [inside, apart, onDisk] = made as [typeof made[0], typeof made[0], typeof made[0]];
      assert.ok(inside.hashes.length > 0);
      assert.deepEqual(apart.hashes, inside.hashes);
      assert.deepEqual(onDisk.hashes, inside.hashes);
      // What lies outside is not the device's, and is planned all the same.
      assert.ok(apart.memory.device < inside.memory.device);
      assert.ok(Math.abs(apart.memory.peak / inside.memory.peak - 1) < 0.05);
      assert.ok(apart.memory.disk === 0 && onDisk.memory.disk > 0);
    });
  }
}

Deno.test("matrices on disk are refused without a folder for them", async () => {
  await using source = await open("sample");
  await using backend = await openWasm({ threads: 1 });
  const calibration = await prepareCalibration(source, { seqLen: 64, numSamples: 4 });
  const work = plan(recipeFromOptions({ scheme: "W4A16", "group-size": 32 }), source, {
    device: withOwn(backend, { matrixPlaces: { outsideBytes: 1, diskBytes: 1 } }),
    calibration: requestOf(calibration),
  });
  await assert.rejects(run(work, { source, backend, sink: memorySink(), calibration }), {
    name: "RangeError",
    message: /^Cannot run the plan: some matrices of the calibration do not stay in memory; /,
  });
});
