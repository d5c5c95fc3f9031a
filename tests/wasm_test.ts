/**
 * What is the WASM backend's own: its artefact, its heap, its threads. Its ops are tested with
 * every backend's.
 */
import assert from "node:assert/strict";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Backend } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { buildKernels } from "../src/backends/wasm/build.ts";
import { Heap } from "../src/backends/wasm/heap.ts";
import { describeCpu, wasmLimits } from "../src/backends/wasm/limits.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { Kernels, Pool, WORDS } from "../src/backends/wasm/pool.ts";
import { DeviceError } from "../src/errors.ts";
import { argumentsOf, bindDims, type Op, parseSignature, type Scalars } from "../src/op.ts";
import { NF4 } from "../src/ops/codebook.ts";
import { OPS } from "../src/ops/mod.ts";
import { quantize4bit } from "../src/ops/quantize_4bit.ts";
import { levels } from "./conformance/cases_codebook.ts";
import { type Given, integers, normal, whole } from "./conformance/given.ts";

Deno.test("kernels.wasm is, byte for byte, what build.ts makes of assembly/", async () => {
  const committed = await Deno.readFile(
    new URL("../src/backends/wasm/kernels.wasm", import.meta.url),
  );
  assert.deepEqual(await buildKernels(), committed);
});

/** A heap of its own, 16 pages and at most `maxPages`. */
function heapOf(maxPages: number): Heap {
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 128, shared: true });
  return new Heap(memory, 1000, maxPages);
}

Deno.test("a heap gives aligned blocks with 64 bytes between them", () => {
  const heap = heapOf(16);
  const sizes = [1, 4, 15, 16, 17, 1000];
  const blocks = sizes.map((size) => ({ size, address: heap.take(size) }));
  for (const [i, { address, size }] of blocks.entries()) {
    assert.equal(address % 16, 0);
    const next = blocks[i + 1];
    if (next) assert.ok(address + size + 64 <= next.address);
  }
});

Deno.test("a heap uses freed memory again, whatever the order of freeing", () => {
  const heap = heapOf(16);
  const before = heap.memory.buffer.byteLength;
  for (const order of [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]]) {
    const blocks = [0, 1, 2, 3].map(() => heap.take(200_000));
    for (const i of order) heap.free(blocks[i]!);
    assert.equal(heap.used, 0);
    // Only merged neighbours have room for this.
    const whole = heap.take(900_000);
    heap.free(whole);
  }
  assert.equal(heap.memory.buffer.byteLength, before);
});

Deno.test("a heap grows when nothing fits, and the last free block grows with it", () => {
  const heap = heapOf(128);
  const first = heap.take(1000);
  const large = heap.take(3_000_000);
  assert.ok(large + 3_000_000 + 64 <= heap.memory.buffer.byteLength);
  // The block begins where the free rest of the first 16 pages began.
  assert.equal(large, Math.ceil((first + 1064) / 16) * 16);
});

Deno.test("a heap that is full says how much was asked for, and how much there is", () => {
  const heap = heapOf(32);
  heap.take(1_500_000);
  assert.throws(
    () => heap.take(700_000),
    (error) =>
      error instanceof DeviceError && error.kind === "memory" && error.bytes === 700_000 &&
      /allocate 700 kB on the CPU: .* at most 2\.1 MB, and 1\.5 MB are in use\.$/.test(
        error.message,
      ),
  );
  // What is left is still there.
  heap.take(500_000);
});

Deno.test("a heap refuses to free what is not in use", () => {
  const heap = heapOf(16);
  const block = heap.take(8);
  heap.free(block);
  assert.throws(() => heap.free(block), RangeError);
});

Deno.test("a freed tensor and another backend's tensor are refused", async () => {
  await using backend = await openWasm({ threads: 1 });
  await using other = await openWasm({ threads: 1 });
  const tensor = backend.alloc("f32", [4]);
  assert.throws(() => other.write(tensor, new Uint8Array(4)), TypeError);
  tensor[Symbol.dispose]();
  tensor[Symbol.dispose]();
  assert.throws(() => backend.write(tensor, new Uint8Array(4)), TypeError);
});

Deno.test("a disposed backend refuses to allocate and to run", async () => {
  const backend = await openWasm({ threads: 2 });
  await backend[Symbol.asyncDispose]();
  await backend[Symbol.asyncDispose]();
  assert.throws(() => backend.alloc("f32", [1]), DeviceError);
});

Deno.test("openWasm refuses a number of threads that is none", async () => {
  for (const threads of [0, -1, 1.5, NaN]) {
    await assert.rejects(() => openWasm({ threads }), RangeError);
  }
});

Deno.test("describeCpu names the threads and how the CPU multiplies and adds", () => {
  const { threads, memoryBytes, maxTensorBytes, fusedMultiplyAdd } = wasmLimits();
  assert.ok(threads >= 1 && maxTensorBytes < memoryBytes && memoryBytes < 2 ** 32);
  assert.match(
    describeCpu(),
    new RegExp(`^${threads} threads? of .* ${fusedMultiplyAdd ? "with" : "without"} fused`),
  );
});

/** Says where packages are. */
const CONFIG = fileURLToPath(new URL("../deno.json", import.meta.url));

Deno.test("the CPU computes on two threads without any permission", async () => {
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const script = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    await Deno.writeTextFile(
      script,
      `import { openWasm } from ${url("../src/backends/wasm/mod.ts")};
       import { add } from ${url("../src/ops/add.ts")};
       await using backend = await openWasm({ threads: 2 });
       const [x, y] = [backend.alloc("f32", [100000]), backend.alloc("f32", [100000])];
       for (const t of [x, y]) backend.write(t, new Uint8Array(new Float32Array(100000).fill(2).buffer));
       backend.run(add, { x, y }, { times: 1, other: 1 });
       const [bytes] = await backend.read(x);
       console.log(new Float32Array(bytes.buffer).every((value) => value === 4));`,
    );
    const { stdout, stderr, code } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--no-check", "--config", CONFIG, script],
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.equal(new TextDecoder().decode(stdout).trim(), "true");
  } finally {
    await Deno.remove(script);
  }
});

Deno.test("a kernel that traps on any thread is a DeviceError, and the device is lost", async () => {
  const op = OPS.find(({ name }) => name === "matmul_columns")!;
  for (const threads of [1, 2]) {
    await using backend = await openWasm({ threads });
    const [T, R] = [512, 512];
    const tensors = {
      x: backend.alloc("f32", [T, 1]),
      columns: backend.alloc("u32", [2]),
      w: backend.alloc("i8", [R, 1]),
      absmax: backend.alloc("f32", [R]),
      y: backend.alloc("f32", [T, R]),
    };
    // One outlier, in a column 2 GiB away.
    backend.write(tensors.columns, new Uint8Array(Uint32Array.of(1, 2 ** 29).buffer));
    const run = () => backend.run(op, tensors, { column: 0 });
    assert.throws(run, (error) => error instanceof DeviceError && error.kind === "kernel");
    assert.throws(run, (error) => error instanceof DeviceError && error.kind === "lost");
  }
});

Deno.test("exp4, expDown4 and exp2Down4 are within 2 units in the last place and pow24 within 7e-6", async () => {
  const module = await WebAssembly.compile(
    await buildKernels({
      "kernels.ts": `import { exp2Down4, exp4, expDown4, pow24 } from "./math";
        export function halvings(p: usize, n: i32): void {
          const end = p + (<usize>n << 2);
          for (; p < end; p += 16) v128.store(p, exp2Down4(v128.load(p)));
        }
        export function downs(p: usize, n: i32): void {
          const end = p + (<usize>n << 2);
          for (; p < end; p += 16) v128.store(p, expDown4(v128.load(p)));
        }
        export function exps(p: usize, n: i32): void {
          for (const end = p + (<usize>n << 2); p < end; p += 16) v128.store(p, exp4(v128.load(p)));
        }
        export function powers(p: usize, n: i32): void {
          for (const end = p + (<usize>n << 2); p < end; p += 16) v128.store(p, pow24(v128.load(p)));
        }`,
    }),
  );
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const [from, n] = [65536, 500_000];
  const values = new Float32Array(memory.buffer, from, n);
  const apply = (name: string, low: number, high: number) => {
    const before = Float32Array.from({ length: n }, (_, i) => low + (high - low) * i / (n - 1));
    values.set(before);
    const kernel = exports[name];
    assert.ok(typeof kernel === "function");
    kernel(from, n);
    return before;
  };
  const near = [
    ["exps", -87, 88.7, 1],
    ["downs", -86, 0, 1],
    ["halvings", -125, 0, Math.LN2],
  ] as const;
  for (const [name, low, high, per] of near) {
    apply(name, low, high).forEach((x, i) => {
      const want = Math.exp(per * x);
      const unit = 2 ** (Math.floor(Math.log2(want)) - 23);
      assert.ok(Math.abs(values[i]! - want) <= 2 * unit, `${name}: of ${x} it is ${values[i]}`);
    });
  }
  apply("exps", -104, -87).forEach((x, i) => {
    assert.ok(Math.abs(values[i]! - Math.exp(x)) <= 2 ** -148, `e^${x} is ${values[i]}`);
  });
  values.set([-Infinity, -1e30, 0, 89]);
  (exports.exps as (p: number, n: number) => void)(from, 4);
  assert.deepEqual([...values.subarray(0, 4)], [0, 0, 1, Infinity]);
  values.set([-Infinity, -1e30, 0, NaN]);
  (exports.downs as (p: number, n: number) => void)(from, 4);
  assert.ok(values[0]! < 1e-37 && values[1] === values[0]);
  assert.deepEqual([...values.subarray(2, 4)], [1, NaN]);
  values.set([-Infinity, -1e30, -1, NaN]);
  (exports.halvings as (p: number, n: number) => void)(from, 4);
  assert.ok(values[0]! < 1e-37 && values[1] === values[0]);
  assert.ok(Math.abs(values[2]! - 0.5) <= 2 ** -24 && Number.isNaN(values[3]));
  apply("powers", 1e-6, 2).forEach((x, i) => {
    const want = x ** 2.4;
    assert.ok(Math.abs(values[i]! - want) <= 7e-6 * want, `${x}^2.4 is ${values[i]}`);
  });
});

/**
 * How to call an op on enough bytes that every thread takes part: sizes of dimensions, scalars,
 * arguments with a meaning.
 */
interface Call {
  readonly dims: Readonly<Record<string, number>>;
  readonly scalars?: Scalars;
  readonly given?: Readonly<Record<string, Given>>;
}

const [T, R, C] = [259, 389, 517];
const TILES = { tile_rows: 3, tile_columns: 47, A: Math.ceil(R / 3), B: 11 };
const tiled = { dims: { R, C, A: TILES.A, B: TILES.B } };
const tiles = { tile_rows: TILES.tile_rows, tile_columns: TILES.tile_columns };
const blocked = (N: number, block: number) => ({ N, P: Math.ceil(N / 2), B: Math.ceil(N / block) });
const positive = (shape: number[]): Given => {
  const values = normal("f32", shape, { seed: 7 });
  const floats = new Float32Array(values.bytes.buffer);
  floats.forEach((value, i) => floats[i] = Math.abs(value) + 0.01);
  return values;
};
const INT4 = { bits: 4, grid: 0 };
const skip = integers("u32", [C], Array.from({ length: C }, (_, c) => c % 50 === 3 ? 1 : 0));
const listed = Array.from({ length: C }, (_, c) => c).filter((c) => c % 50 === 3);
const columns = integers("u32", [C + 1], [
  listed.length,
  ...listed,
  ...Array.from({ length: C - listed.length }, () => 0),
]);

/** Two windows of more queries than a kernel takes at once, and the facts of each. */
const ATTENTION = {
  dims: { T: 2 * 150, Q: 6 * 36, K: 2 * 36, B: 6, S: 150, P: 3 * 6 },
  scalars: { head_dim: 36, window: 100, scale: 0.2, cap: 30, biased: 1, length: 150 },
};

const CALLS: Readonly<Record<string, Call>> = {
  widen: { dims: { N: 100_003 } },
  narrow: { dims: { N: 100_003 } },
  tile_range: { ...tiled, scalars: tiles },
  scale_params: { dims: { A: 331, B: 257 }, scalars: { bits: 4, grid: 2, scale_dtype: 1 } },
  quantize_int: {
    ...tiled,
    scalars: { bits: 5, grid: 0, ...tiles },
    given: { scale: positive([TILES.A, TILES.B]) },
  },
  dequantize_int: { ...tiled, scalars: tiles },
  search_params: {
    dims: { ...tiled.dims, G: 1 },
    scalars: { bits: 4, grid: 2, scale_dtype: 2, objective: 0, signed: 0, ...tiles },
    given: { importance: positive([1, C]) },
  },
  hqq_params: {
    ...tiled,
    scalars: { bits: 3, grid: 2, scale_dtype: 2, guard: 1, ...tiles },
    given: { rival_scale: positive([TILES.A, TILES.B]) },
  },
  pack_bits: {
    dims: { R, C, P: Math.ceil(C * 3 / 32) },
    scalars: { bits: 3 },
    given: { codes: whole("i8", [R, C], { low: -4, high: 3, seed: 3 }) },
  },
  unpack_bits: { dims: { R, C, P: Math.ceil(C * 7 / 32) }, scalars: { bits: 7 } },
  quantize_4bit: { dims: blocked(200_001, 96), scalars: { block: 96, kind: 0, given: 0 } },
  dequantize_4bit: { dims: blocked(200_001, 65), scalars: { block: 65, kind: 1 } },
  quantize_codebook: {
    dims: { R, C, A: Math.ceil(R / 3), K: 16 },
    scalars: { table_rows: 3 },
    given: { table: levels(Math.ceil(R / 3), 16, 7) },
  },
  dequantize_codebook: { dims: { R, C, A: Math.ceil(R / 3), K: 16 }, scalars: { table_rows: 3 } },
  quantize_dynamic8: {
    dims: { N: 100_003, K: 256, B: Math.ceil(100_003 / 256) },
    scalars: { block: 256, offset: 0.25 },
    given: { table: sorted() },
  },
  dequantize_dynamic8: {
    dims: { N: 100_003, K: 256, B: Math.ceil(100_003 / 256) },
    scalars: { block: 256, offset: 0.25 },
  },
  quantize_rows_int8: { dims: { T, C }, scalars: { threshold: 2 }, given: { skip } },
  outlier_columns: { dims: { T, C, D: C + 1 }, scalars: { threshold: 2.5 } },
  matmul_int8: { dims: { T, C, R } },
  rescale_int8: { dims: { T, R, Y: R + 5 }, scalars: { column: 3 } },
  matmul_columns: {
    dims: { T, C, R, D: C + 1, Y: R + 5 },
    scalars: { column: 3 },
    given: { columns },
  },
  matmul_nt: { dims: { T, C, R, Y: R + 5 }, scalars: { column: 2 } },
  matmul_packed: {
    dims: { T, C, R, P: Math.ceil(C * 4 / 32), G: 11, Y: R + 5 },
    scalars: { bits: 4, column: 2 },
  },
  embedding: {
    dims: { T, V: 301, C },
    scalars: { first: 100 },
    given: { ids: whole("u32", [T], { low: 0, high: 500, seed: 5 }) },
  },
  rms_norm: { dims: { T, C, D: C }, scalars: { eps: 1e-5, plus: 1 } },
  layer_norm: { dims: { T, C }, scalars: { eps: 1e-5 } },
  rope: { dims: { T, H: 21, D: 46 * 7 }, scalars: { head_dim: 46, adjacent: 0 } },
  attention: {
    dims: { T, Q: 6 * 36, K: 2 * 36, B: 6, S: T },
    scalars: { head_dim: 36, window: 100, scale: 0.2, cap: 30, biased: 1, length: T },
  },
  attention_vjp_q: { dims: ATTENTION.dims, scalars: ATTENTION.scalars },
  attention_vjp_kv: {
    ...ATTENTION,
    given: { facts: positive([ATTENTION.dims.T, ATTENTION.dims.P]) },
  },
  rms_norm_vjp: { dims: { T, C, D: C }, scalars: { eps: 1e-5, plus: 1 } },
  layer_norm_vjp: { dims: { T, C }, scalars: { eps: 1e-5 } },
  act: { dims: { N: 100_003 }, scalars: { kind: 1 } },
  act_vjp: { dims: { N: 100_003 }, scalars: { kind: 1 } },
  scale_cap_vjp: { dims: { N: 100_003 }, scalars: { times: 12, cap: 30 } },
  gate_vjp: { dims: { N: 100_003 }, scalars: { kind: 2 } },
  gate: { dims: { N: 100_003 }, scalars: { kind: 0 } },
  scale_cap: { dims: { N: 100_003 }, scalars: { times: 12, cap: 30 } },
  gather_columns: {
    dims: { T, C, N: 301 },
    given: { columns: whole("u32", [301], { low: 0, high: C - 1, seed: 7 }) },
  },
  add: { dims: { N: 100_003 }, scalars: { times: 0.22, other: 1 } },
  add_bias: { dims: { T, R } },
  divergence: {
    dims: { T, V: 1001, S: 10 },
    scalars: { first: 500 },
    given: { labels: whole("u32", [T], { low: 0, high: 2000, seed: 6 }) },
  },
  divergence_vjp: {
    dims: { T, V: 1001, S: 10 },
    given: { state: positive([T, 10]) },
  },
  nll_vjp: {
    dims: { T, V: 1001, S: 10 },
    scalars: { first: 500 },
    given: {
      labels: whole("u32", [T], { low: 0, high: 2000, seed: 6 }),
      state: positive([T, 10]),
    },
  },
  fake_quantize: {
    dims: { N: 100_003, S: 1 },
    scalars: { kind: 0, bits: 8 },
    given: { scale: positive([1]) },
  },
  fake_quantize_rows: { dims: { T, C }, scalars: { kind: 0, bits: 8 } },
  error_sums: { dims: { N: 100_003, P: 25, S: 6 } },
  float_bins: {
    dims: { N: 100_003, K: 131_072 },
    given: { counts: whole("u32", [131_072], { low: 0, high: 7, seed: 9 }) },
  },
  histogram: { dims: { N: 100_003, K: 1000 }, scalars: { low: -4, high: 4 } },
  quantize_fp8: { ...tiled, scalars: tiles, given: { scale: positive([TILES.A, TILES.B]) } },
  dequantize_fp8: { ...tiled, scalars: tiles },
  gemm: {
    dims: { A: T, D: R, B: T, E: C, C: R, F: C },
    scalars: {
      m: R - 3,
      n: C - 2,
      k: T,
      a_row: 0,
      a_column: 1,
      a_transposed: 1,
      b_row: 0,
      b_column: 2,
      b_transposed: 1,
      c_row: 2,
      c_column: 1,
      add: 1,
      half: 1,
      diagonal: 64,
      alpha: 0.5,
    },
  },
  copy: {
    dims: { A: C, D: R, B: R, E: C },
    scalars: {
      rows: R - 1,
      columns: C - 2,
      from_row: 2,
      from_column: 1,
      to_row: 0,
      to_column: 1,
      transposed: 1,
    },
  },
  mirror: { dims: { P: R, C }, scalars: { first: C - R } },
  permute_gram: {
    dims: { P: R, C, Q: R },
    scalars: { from: 5, to: 9, damp: 0.1 },
    given: { order: reversed(C) },
  },
  permute_columns: { dims: { R, C, G: 1 }, given: { order: reversed(C) } },
  factor_block: {
    dims: { P: 300, C: 300, K: 64, S: 1 },
    scalars: { first: 128, panel: 0, least: 1e-6 },
  },
  gptq_block: {
    dims: { P: C, C, A: R, B: 11, G: 1, R },
    scalars: { first: 64, count: 64, panel: 0, tile_rows: 1, tile_columns: 47, kind: 0, ...INT4 },
    given: {
      order: reversed(C),
      scale: positive([R, 11]),
      v: positive([C, C]),
      factor: positive([1, C]),
    },
  },
  descend_block: {
    dims: { P: C, C, G: 1, R, K: 64, A: R, B: 11 },
    scalars: {
      first: 64,
      count: 64,
      panel: 0,
      tile_rows: 1,
      tile_columns: 47,
      kind: 0,
      ...INT4,
      damp: 0.1,
    },
    given: { scale: positive([R, 11]), h: positive([C, C]), factor: positive([1, C]) },
  },
  refit_scales: {
    dims: { G: 1, C, R, K: 200, B: 3 },
    scalars: { first: 190, count: 187, tile: 1, scale_dtype: 1, damp: 0.1 },
    given: { scale: positive([R, 3]), factor: positive([1, C]) },
  },
  diagonal: {
    dims: { P: R, C },
    scalars: { first: 9, inverse_square: 1 },
    given: { order: reversed(C) },
  },
  row_dots: { dims: { R, C } },
  scale_rows: { dims: { R, C }, scalars: { scale_dtype: 1 } },
  subtract: { dims: { N: 100_003 } },
  column_stats: { dims: { T, C, S: 3 } },
  start_latents: {
    ...tiled,
    scalars: { bits: 4, grid: 2, ...tiles },
    given: { scale: positive([TILES.A, TILES.B]) },
  },
  adam: {
    dims: { N: 100_003 },
    scalars: { decay_m: 0.9, decay_v: 0.99, gain_m: 2, gain_v: 20 },
  },
  zero_slopes: {
    dims: { R, C, A: R, B: 11 },
    scalars: { bits: 4, grid: 2, tile_rows: 1, tile_columns: 47 },
  },
  scale_slopes: { dims: { R, C, A: R, B: 11 }, scalars: { tile_rows: 1, tile_columns: 47 } },
  step_latents: { ...tiled, scalars: { bits: 4, grid: 2, ...tiles, rate: 0.005 } },
  step_scales: { dims: { N: 100_003 }, scalars: { scale_dtype: 1, rate: 0.001 } },
};

/** The order C − 1 … 0. */
function reversed(count: number): Given {
  return integers("u32", [count], Array.from({ length: count }, (_, i) => count - 1 - i));
}

/** 256 ascending values. */
function sorted(): Given {
  const { bytes, shape, dtype } = normal("f32", [256], { seed: 8 });
  new Float32Array(bytes.buffer).sort();
  return { bytes, shape, dtype };
}

/**
 * Every argument of a call; those it does not give are drawn. `choice` picks among an argument's
 * dtypes.
 */
function givenFor(op: Op, { dims, given = {} }: Call, choice: number): Record<string, Given> {
  return Object.fromEntries(
    argumentsOf(op).map(([name, signature], i) => {
      const { dtypes, dims: letters } = parseSignature(signature);
      const shape = letters.map((letter) => dims[letter]!);
      const dtype = dtypes[choice % dtypes.length]!;
      const drawn = dtype === "i8" || dtype === "u8" || dtype === "i32" || dtype === "u32"
        ? whole(dtype, shape, { low: dtype[0] === "i" ? -7 : 0, high: 7, seed: i + 1 })
        : normal(dtype, shape, { seed: i + 1 });
      return [name, given[name] ?? drawn];
    }),
  );
}

/** The bytes of every output after one run. */
async function outputsOf(
  backend: Backend,
  op: Op,
  { given, scalars }: { given: Readonly<Record<string, Given>>; scalars: Scalars },
): Promise<Uint8Array<ArrayBuffer>[]> {
  using scope = backend.scope();
  const tensors = Object.fromEntries(
    Object.entries(given).map(([name, { dtype, shape, bytes }]) => {
      const tensor = scope.alloc(dtype, shape);
      backend.write(tensor, bytes);
      return [name, tensor];
    }),
  );
  backend.run(op, tensors, scalars);
  return await backend.read(...Object.keys(op.outputs).map((name) => tensors[name]!));
}

Deno.test("every op gives the same bytes on one, two and three threads, and again", async (test) => {
  await using one = await openWasm({ threads: 1 });
  await using two = await openWasm({ threads: 2 });
  await using three = await openWasm({ threads: 3 });
  for (const op of OPS) {
    await test.step(op.name, async () => {
      const call = CALLS[op.name];
      assert.ok(call, `no sizes are given for ${op.name}`);
      const choices = Math.max(...argumentsOf(op).map(([, s]) => parseSignature(s).dtypes.length));
      for (let choice = 0; choice < choices; choice++) {
        const given = givenFor(op, call, choice);
        const scalars: Scalars = call.scalars ?? {};
        assert.deepEqual({ ...bindDims(op, given, scalars), ...call.dims }, call.dims);
        const bytes = Object.values(given).reduce((sum, { bytes }) => sum + bytes.length, 0);
        assert.ok(bytes >= 2 ** 17, `${bytes} bytes are too few for threads to share`);
        const want = await outputsOf(one, op, { given, scalars });
        for (const backend of [two, two, three]) {
          assert.deepEqual(await outputsOf(backend, op, { given, scalars }), want);
        }
      }
    });
  }
});

/**
 * Calls past what a kernel holds at once: panels of 256, tiles, key blocks, a tile of weights, bins
 * in scratch memory.
 */
const LARGE: Readonly<Record<string, Call>> = {
  matmul_nt: { dims: { T: 201, C: 770, R: 270, Y: 271 }, scalars: { column: 1 } },
  matmul_packed: {
    dims: { T: 97, C: 770, R: 270, P: 145, G: 7, Y: 270 },
    scalars: { bits: 6, column: 0 },
  },
  matmul_int8: { dims: { T: 97, C: 1031, R: 270 } },
  attention: {
    dims: { T: 150, Q: 600, K: 300, B: 1, S: 1 },
    scalars: { head_dim: 300, window: 0, scale: 0.06, cap: 0, biased: 0, length: 75 },
  },
  search_params: {
    dims: { R: 150, C: 517, G: 1, A: 1, B: 1 },
    scalars: {
      bits: 4,
      grid: 2,
      tile_rows: 150,
      tile_columns: 517,
      scale_dtype: 0,
      objective: 0,
      signed: 0,
    },
    given: { importance: positive([1, 517]) },
  },
  gemm: {
    dims: { A: 600, D: 300, B: 600, E: 500, C: 300, F: 500 },
    scalars: {
      m: 300,
      n: 500,
      k: 600,
      a_row: 0,
      a_column: 0,
      a_transposed: 1,
      b_row: 0,
      b_column: 0,
      b_transposed: 1,
      c_row: 0,
      c_column: 0,
      add: 1,
      half: 0,
      diagonal: 0,
      alpha: 1,
    },
  },
  histogram: { dims: { N: 50_000, K: 300_000 }, scalars: { low: -4, high: 4 } },
  tile_range: {
    dims: { R: 10, C: 5000, A: 2, B: 1 },
    scalars: { tile_rows: 5, tile_columns: 5000 },
  },
  rms_norm: { dims: { T: 3, C: 5000, D: 5000 }, scalars: { eps: 1e-5, plus: 0 } },
  layer_norm: { dims: { T: 3, C: 5000 }, scalars: { eps: 1e-5 } },
  divergence: { dims: { T: 5, V: 5003, S: 10 }, scalars: { first: 0 } },
};

Deno.test("ops larger than a kernel's blocks agree with their definitions", async (test) => {
  await using backend = await openWasm({ threads: 2 });
  await using definition = referenceBackend();
  for (const [name, call] of Object.entries(LARGE)) {
    await test.step(name, async () => {
      const op = OPS.find((op) => op.name === name)!;
      const given = givenFor(op, call, 0);
      const scalars: Scalars = call.scalars ?? {};
      const got = await outputsOf(backend, op, { given, scalars });
      const want = await outputsOf(definition, op, { given, scalars });
      Object.keys(op.outputs).forEach((output, i) => {
        if (given[output]!.dtype !== "f32") return assert.deepEqual(got[i], want[i], output);
        const values = new Float32Array(got[i]!.buffer);
        const right = new Float32Array(want[i]!.buffer);
        const most = right.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        right.forEach((value, k) => {
          assert.ok(
            Math.abs(values[k]! - value) <= 2e-6 * most,
            `${output}[${k}] is ${values[k]}, not ${value}`,
          );
        });
      });
    });
  }
});

Deno.test("a worker that is woken late, for an op that it has done or that is over, does nothing", async () => {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 128, shared: true });
  const pool = await Pool.start(memory, { kernels: new Kernels(memory), threads: 2 });
  try {
    const { control } = pool;
    Atomics.store(control, WORDS.left, 5);
    let woken = 0;
    for (let i = 0; i < 1000 && woken < 5; i++) {
      await setTimeout(1);
      woken += Atomics.notify(control, WORDS.generation);
    }
    assert.equal(woken, 5, "the worker did not go to sleep");
    await setTimeout(20);
    assert.equal(Atomics.load(control, WORDS.left), 5, "the worker counted itself out");
    // The next op was closed before the system ran the worker.
    Atomics.store(control, WORDS.entered, -1);
    Atomics.add(control, WORDS.generation, 1);
    Atomics.notify(control, WORDS.generation);
    await setTimeout(50);
    assert.equal(Atomics.load(control, WORDS.left), 5, "the worker took part in a closed op");
    assert.equal(Atomics.load(control, WORDS.entered), -1);
  } finally {
    pool.stop();
  }
});

Deno.test("quantize_4bit gives bf16 numbers the codes of NF4, whatever the absmax of their block", async () => {
  await using backend = await openWasm({ threads: 2 });
  // Every mantissa once, and exponents about those where rounding is no longer the same.
  const tops = [
    ...Array.from({ length: 128 }, (_, mantissa) => 127 << 7 | mantissa),
    ...[0, 1, 15, 16, 17, 239, 240, 241, 254].flatMap((exponent) =>
      [1, 77].map((m) => exponent << 7 | m)
    ),
  ];
  for (const top of tops) {
    // What is near enough to matter, then a few that are not; each with both signs.
    const near = Array.from({ length: Math.min(top, 700) + 1 }, (_, i) => top - i);
    const numbers = [...near, 0, 1, top >> 1].flatMap((bits) => [bits, bits | 0x8000]);
    const rows = Math.ceil(numbers.length / 63);
    const halves = Uint16Array.from(
      { length: rows * 64 },
      (_, i) => i % 64 === 0 ? top : numbers[(i >> 6) * 63 + i % 64 - 1] ?? 0,
    );
    const w = backend.alloc("bf16", [rows, 64]), codes = backend.alloc("u8", [rows * 32]);
    const absmax = backend.alloc("f32", [rows, 1]);
    backend.write(w, new Uint8Array(halves.buffer));
    backend.run(quantize4bit, { w, codes, absmax }, { block: 64, kind: 0, given: 0 });
    const [packed] = await backend.read(codes);
    const floats = new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);
    const factor = Math.fround(1 / Math.max(floats[0]!, Math.fround(1e-38)));
    const expected = new Uint8Array(rows * 32);
    floats.forEach((x, i) => {
      const level = Math.fround(x * factor);
      const code = NF4.bounds.filter((bound) => level > bound).length;
      expected[i >> 1]! |= i % 2 === 0 ? code << 4 : code;
    });
    assert.deepEqual(packed, expected, `absmax ${floats[0]}`);
    for (const tensor of [w, codes, absmax]) tensor[Symbol.dispose]();
  }
});
