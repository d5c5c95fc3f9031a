/**
 * Products by a BLAS of the system: against their definitions, the same with any number of threads,
 * and refused where a library is none. Where there is no BLAS, what needs one is shown as skipped.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { Backend } from "../src/backend.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { DeviceError } from "../src/errors.ts";
import { openBackend } from "../src/open.ts";
import { multiply } from "../src/ops/gemm.ts";
import {
  attention,
  attentionVjpKv,
  attentionVjpQ,
  gemm,
  matmulNt,
  matmulPacked,
} from "../src/ops/mod.ts";
import type { FloatDType } from "../src/tensor.ts";
import { ABSENT_BLAS } from "./blas_given.ts";
import { testBackend } from "./conformance/backend.ts";

/** Says where packages are. */
const CONFIG = fileURLToPath(new URL("../deno.json", import.meta.url));

await testBackend(
  "a BLAS for wasm",
  async () => ABSENT_BLAS ?? await openWasm({ threads: 2, blas: "auto", blasLeast: 1 }),
  { ops: [matmulNt, matmulPacked, gemm, attention, attentionVjpQ, attentionVjpKv] },
);

function withBlas(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: ABSENT_BLAS !== undefined, fn });
}

/** Values of every size, the same ones each time. */
function values(count: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * 78.233 + seed) * 4);
}

function bytesOf(array: Float32Array<ArrayBuffer>, dtype: FloatDType): Uint8Array<ArrayBuffer> {
  if (dtype === "f32") return new Uint8Array(array.buffer);
  const words = new Uint32Array(array.buffer);
  return new Uint8Array(Uint16Array.from(words, (word) => word >>> 16).buffer);
}

/** The sizes of products that are cut into several tiles and panels, with ragged ends. */
const SIZES = [[1100, 1000, 530], [70, 1600, 300], [513, 40, 257]] as const;

async function products(backend: Backend): Promise<Uint8Array<ArrayBuffer>[]> {
  using scope = backend.scope();
  const results = [];
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    for (const [T, C, R] of SIZES) {
      const [x, w] = [scope.alloc("f32", [T, C]), scope.alloc(dtype, [R, C])];
      const y = scope.alloc("f32", [T, R]);
      backend.write(x, bytesOf(values(T * C, 1), "f32"));
      // Halves of f32 are floats of either kind.
      backend.write(w, bytesOf(values(R * C, 2), dtype));
      backend.run(matmulNt, { x, w, y }, { column: 0 });
      results.push(y);
    }
  }
  return await backend.read(...results);
}

withBlas("products of a BLAS are the same bytes with one, two and three threads", async () => {
  await using one = await openWasm({ threads: 1, blas: "auto" });
  await using two = await openWasm({ threads: 2, blas: "auto" });
  await using three = await openWasm({ threads: 3, blas: "auto" });
  const want = await products(one);
  for (const backend of [two, two, three]) assert.deepEqual(await products(backend), want);
});

withBlas("products of a BLAS are those of Sluice's own kernels but for rounding", async () => {
  await using own = await openWasm({ threads: 2 });
  await using blas = await openWasm({ threads: 2, blas: "auto" });
  const [got, want] = [await products(blas), await products(own)];
  let differing = 0;
  got.forEach((bytes, i) => {
    const [T, C, R] = SIZES[i % SIZES.length]!;
    const [found, right] = [new Float32Array(bytes.buffer), new Float32Array(want[i]!.buffer)];
    assert.equal(found.length, T * R);
    // A halved f32 taken for an f16 may be large; sums of C products of such.
    const most = right.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    right.forEach((value, k) => {
      if (Number.isNaN(value)) return assert.ok(Number.isNaN(found[k]!));
      if (!Number.isFinite(value)) return;
      const apart = Math.abs(found[k]! - value);
      if (apart > 0) differing++;
      assert.ok(apart <= C * 2 ** -23 * most, `${i}[${k}] is ${found[k]}, not ${value}`);
    });
  });
  assert.ok(differing > 0, "the BLAS was not asked");
});

withBlas("one half of a Gram matrix is computed, and the other half left alone", async () => {
  await using backend = await openWasm({ threads: 2, blas: "auto" });
  using scope = backend.scope();
  const [T, C, first] = [300, 700, 192];
  const x = scope.alloc("f32", [T, C]);
  const c = scope.alloc("f32", [C - first, C]);
  const given = values(T * C, 3);
  backend.write(x, bytesOf(given, "f32"));
  backend.write(c, bytesOf(new Float32Array((C - first) * C).fill(7), "f32"));
  multiply(backend, {
    a: { tensor: x, column: first, transposed: true },
    b: { tensor: x, transposed: true },
    c: { tensor: c },
  }, { m: C - first, n: C, k: T, add: true, half: "lower", diagonal: first });
  const [bytes] = await backend.read(c);
  const found = new Float32Array(bytes!.buffer);
  for (let i = 0; i < C - first; i += 13) {
    for (let j = 0; j < C; j += 11) {
      if (Math.floor(j / 64) > Math.floor((i + first) / 64)) {
        assert.equal(found[i * C + j], 7, `[${i}, ${j}] was to be left alone`);
        continue;
      }
      let [sum, size] = [7, 7];
      for (let t = 0; t < T; t++) {
        const product = given[t * C + first + i]! * given[t * C + j]!;
        sum += product;
        size += Math.abs(product);
      }
      assert.ok(Math.abs(found[i * C + j]! - sum) <= (T + 2) * 2 ** -24 * size, `[${i}, ${j}]`);
    }
  }
});

withBlas("the device's name tells which BLAS multiplies", async () => {
  await using backend = await openBackend("wasm", { threads: 1 });
  assert.match(backend.description, /^1 thread of .+ multiply-add and \S.+/);
  await using none = await openBackend("wasm", { threads: 1, blas: "none" });
  assert.match(none.description, /multiply-add$/);
});

Deno.test("a library that is not there, or no BLAS, is refused with its name", async () => {
  const libc = { linux: "libc.so.6", darwin: "libSystem.dylib", windows: "kernel32.dll" };
  const other = libc[Deno.build.os as keyof typeof libc] ?? "libc.so";
  for (const blas of ["no/such/libblas.so", other]) {
    await assert.rejects(() => openBackend("wasm", { threads: 1, blas }), (error) => {
      assert.ok(error instanceof DeviceError);
      assert.equal(error.kind, "absent");
      assert.ok(error.message.startsWith(`Cannot use ${blas} as a BLAS: `), error.message);
      return true;
    });
  }
});

/** What a device that is opened with these permissions calls itself. */
async function descriptionWith(...permissions: string[]): Promise<string> {
  const url = JSON.stringify(new URL("../src/backends/wasm/mod.ts", import.meta.url).href);
  const script = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(
      script,
      `import { openWasm } from ${url};
       await using backend = await openWasm({ threads: 2, blas: "auto" });
       console.log(backend.description);`,
    );
    const { stdout, stderr, code } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--no-check", "--config", CONFIG, ...permissions, script],
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout).trim();
  } finally {
    await Deno.remove(script);
  }
}

Deno.test("without permission for FFI there is no BLAS, and nobody is asked", async () => {
  assert.match(await descriptionWith(), /multiply-add$/);
  // Deno takes addresses only from those who may call every library.
  assert.match(await descriptionWith("--allow-ffi=libopenblas.so.0"), /multiply-add$/);
});

withBlas("permission for FFI alone is enough for the same BLAS with the same kernels", async () => {
  await using backend = await openWasm({ threads: 2, blas: "auto" });
  assert.equal(await descriptionWith("--allow-ffi"), backend.description);
});
