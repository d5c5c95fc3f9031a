/**
 * What is peculiar to the WebGPU backend: batches, faults that come late, a lost device. The ops
 * are tested in backends_test.ts.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { describeAdapters, type WebgpuBackend } from "../src/backends/webgpu/mod.ts";
import { BufferPool } from "../src/backends/webgpu/buffers.ts";
import { tryRoom } from "../src/backends/webgpu/room.ts";
import { DeviceError } from "../src/errors.ts";
import { defineOp, type Op } from "../src/op.ts";
import { add, divergence } from "../src/ops/mod.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";
import { gaussian } from "./conformance/given.ts";

/** Register a test that gets a fresh backend; shown as skipped where there is no adapter. */
function test(name: string, body: (backend: WebgpuBackend) => Promise<void>): void {
  Deno.test({
    name: `webgpu ${name}`,
    ignore: ABSENT_GPU !== undefined,
    async fn() {
      await using backend = await openTestGpu();
      await body(backend);
    },
  });
}

function floats(...values: number[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** An op like `add` with other WGSL. */
function opWith(name: string, main: string): Op {
  return defineOp({
    ...add,
    name,
    wgsl: `
      @group(0) @binding(0) var<storage, read> y: array<f32>;
      @group(0) @binding(1) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(1) fn main() { ${main} }`,
  });
}

/**
 * Make the device report that memory ran out whenever a buffer of at least `bytes` is made;
 * llvmpipe itself never does.
 */
function limitMemory(device: GPUDevice, bytes: number): void {
  const [create, push, pop] = [
    device.createBuffer.bind(device),
    device.pushErrorScope.bind(device),
    device.popErrorScope.bind(device),
  ];
  const scopes: { filter: GPUErrorFilter; full: boolean }[] = [];
  device.pushErrorScope = (filter) => {
    scopes.push({ filter, full: false });
    push(filter);
  };
  device.createBuffer = (descriptor) => {
    const scope = scopes.findLast(({ filter }) => filter === "out-of-memory");
    if (scope && descriptor.size >= bytes) scope.full = true;
    return create(descriptor);
  };
  device.popErrorScope = async () => {
    const full = scopes.pop()!.full;
    const error = await pop();
    return full ? new GPUOutOfMemoryError("not enough memory left") : error;
  };
}

test("runs more dispatches than a batch holds, each with its own uniforms", async (backend) => {
  using scope = backend.scope();
  const parts = Array.from({ length: 300 }, (_, i) => scope.alloc("f32", [i + 1]));
  const ones = scope.alloc("f32", [300]);
  backend.write(ones, floats(...new Array<number>(300).fill(1)));
  for (const [i, part] of parts.entries()) {
    backend.write(part, floats(...new Array<number>(i + 1).fill(i)));
    const y = scope.alloc("f32", [i + 1]);
    backend.write(y, floats(...new Array<number>(i + 1).fill(1)));
    for (let n = 0; n < 3; n++) backend.run(add, { x: part, y }, { times: 1, other: 1 });
  }
  const read = await backend.read(...parts);
  for (const [i, bytes] of read.entries()) {
    assert.deepEqual(
      [...new Float32Array(bytes.buffer)],
      new Array<number>(i + 1).fill(i + 3),
    );
  }
});

test("keeps the order of writes to memory that a queued op of another tensor still reads", async (backend) => {
  using out = backend.alloc("f32", [64]);
  backend.write(out, floats(...new Array<number>(64).fill(0)));
  for (let round = 1; round <= 10; round++) {
    // The pool hands the same memory out each time.
    using y = backend.alloc("f32", [64]);
    backend.write(y, floats(...new Array<number>(64).fill(round)));
    backend.run(add, { x: out, y }, { times: 1, other: 1 });
  }
  const [bytes] = await backend.read(out);
  assert.deepEqual([...new Float32Array(bytes!.buffer)], new Array<number>(64).fill(55));
});

test("uploads and reads back more than one staging buffer holds", async (backend) => {
  using scope = backend.scope();
  const size = 40 * 2 ** 20 + 3;
  const tensors = [scope.alloc("u8", [size]), scope.alloc("u8", [size])];
  const contents = tensors.map((_, n) => {
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i += 4093) bytes[i] = i + n;
    bytes[size - 1] = 200 + n;
    return bytes;
  });
  tensors.forEach((tensor, n) => backend.write(tensor, contents[n]!));
  const read = await backend.read(...tensors);
  assert.ok(read.every((bytes, n) => Buffer.compare(bytes, contents[n]!) === 0));
});

test("answers several reads that are waited for together", async (backend) => {
  using scope = backend.scope();
  const tensors = [1, 2, 3].map((value) => {
    const tensor = scope.alloc("f32", [1]);
    backend.write(tensor, floats(value));
    return tensor;
  });
  const read = await Promise.all(tensors.map((tensor) => backend.read(tensor)));
  assert.deepEqual(read.map(([bytes]) => new Float32Array(bytes!.buffer)[0]), [1, 2, 3]);
});

Deno.test("a pool gives buffers again, and keeps no more bytes than it may: the oldest go first", () => {
  let made = 0;
  const destroyed: unknown[] = [];
  const pool = new BufferPool({
    create: (size) => ({ size, number: ++made }) as unknown as GPUBuffer,
    destroy: (buffer) => destroyed.push(buffer),
  }, 1000);
  const [a, b, c] = [pool.take(400), pool.take(300), pool.take(600)];
  for (const buffer of [a, b]) pool.give(buffer!);
  assert.equal(pool.take(400), a);
  pool.give(a!);
  assert.deepEqual(destroyed, []);
  pool.give(c!);
  // b has waited longest.
  assert.deepEqual(destroyed, a!.size + c!.size <= 1000 ? [b] : [b, a]);
  assert.notEqual(pool.take(300), b);
  pool.clear();
  assert.equal(new Set(destroyed).size, 3);
});

Deno.test("tryRoom() finds what a device lets tensors take, less a reserve, and gives all of it back", async () => {
  let [held, most] = [0, 0];
  const device = {
    limits: { maxBufferSize: 100 },
    pushErrorScope() {},
    createBuffer({ size }: GPUBufferDescriptor) {
      held += size;
      most = Math.max(most, held);
      return { destroy: () => held -= size };
    },
    popErrorScope: () => Promise.resolve(held > 850 ? new GPUOutOfMemoryError("full") : null),
  } as unknown as GPUDevice;
  assert.equal(await tryRoom(device, 150), 150);
  assert.deepEqual([held, most], [0, 200]);
  assert.equal(await tryRoom(device, 5000), 800 * 7 / 8);
  assert.deepEqual([held, most], [0, 900]);
});

test("refuses a tensor larger than a kernel can bind, and says how large it is", (backend) => {
  const elements = 2 ** 40;
  assert.throws(() => backend.alloc("f32", [elements]), (error) => {
    assert.ok(error instanceof DeviceError);
    assert.equal(error.kind, "memory");
    assert.equal(error.bytes, 4 * elements);
    assert.match(
      error.message,
      /^Cannot allocate f32\[1099511627776\], 4\.4 TB where .*`budgets\.vram`\.$/,
    );
    return true;
  });
  return Promise.resolve();
});

test("reports memory that ran out at the next read, and goes on afterwards", async (backend) => {
  using scope = backend.scope();
  limitMemory(backend.device, 2 ** 20);
  const small = scope.alloc("f32", [2]);
  backend.write(small, floats(1, 2));
  {
    using large = backend.alloc("u8", [2 ** 20]);
    assert.ok(large);
    await assert.rejects(backend.read(small), {
      name: "DeviceError",
      kind: "memory",
      bytes: 2 ** 20,
    });
  }
  const [bytes] = await backend.read(small);
  assert.deepEqual([...new Float32Array(bytes!.buffer)], [1, 2]);
});

test("reports a shader that does not compile, by the op's name, and never zeros", async (backend) => {
  using scope = backend.scope();
  const [x, y] = [scope.alloc("f32", [1]), scope.alloc("f32", [1])];
  backend.run(opWith("misspelt", "x[0] = nonsense(y[0]);"), { x, y }, { times: 1, other: 1 });
  await assert.rejects(backend.finish(), (error) => {
    assert.ok(error instanceof DeviceError);
    assert.equal(error.kind, "kernel");
    assert.match(error.message, /^Cannot compile misspelt .*nonsense/s);
    return true;
  });
  backend.run(opWith("misspelt again", "x[0] = nonsense(y[0]);"), { x, y }, { times: 1, other: 1 });
  await assert.rejects(backend.read(x), { name: "DeviceError", kind: "kernel" });
});

test("refuses an output that is also an input, naming both", (backend) => {
  using x = backend.alloc("f32", [4]);
  assert.throws(() => backend.run(add, { x, y: x }, { times: 1, other: 1 }), {
    name: "TypeError",
    message: /Cannot run add: "x" is written and is the same tensor as "y"/,
  });
  return Promise.resolve();
});

test("lets one tensor be two inputs", async (backend) => {
  using scope = backend.scope();
  const p = scope.alloc("f32", [1, 2]);
  const labels = scope.alloc("u32", [1]);
  const state = scope.alloc("f32", [1, 10]);
  backend.write(p, floats(0, 1));
  backend.write(labels, new Uint8Array(4));
  backend.write(state, floats(-3.4028235e38, 0, -3.4028235e38, 0, 0, 0, 0, 0, 0, 0));
  backend.run(divergence, { p, q: p, labels, state }, { first: 0 });
  const [bytes] = await backend.read(state);
  const [most, sum, mostQ, sumQ, gap] = new Float32Array(bytes!.buffer);
  assert.deepEqual([most, mostQ, gap], [1, 1, 0]);
  assert.equal(sum, sumQ);
  assert.ok(Math.abs(sum! - 1 - Math.exp(-1)) < 1e-6);
});

test("refuses tensors of another backend and tensors that were disposed of", async (backend) => {
  await using other = await openTestGpu();
  using foreign = other.alloc("f32", [4]);
  using own = backend.alloc("f32", [4]);
  assert.throws(() => backend.run(add, { x: own, y: foreign }, { times: 1, other: 1 }), TypeError);
  const gone = backend.alloc("f32", [4]);
  gone[Symbol.dispose]();
  gone[Symbol.dispose]();
  assert.throws(() => backend.run(add, { x: own, y: gone }, { times: 1, other: 1 }), {
    name: "TypeError",
    message: /disposed of/,
  });
});

test("runs the first variant that takes the dtypes, fits and suits, else the op itself", async (backend) => {
  using scope = backend.scope();
  const writes = (value: number, type = "f32"): Op =>
    defineOp({
      name: `writes ${value}`,
      inputs: { x: type === "f32" ? "f32[N]" : "u32[N]" },
      outputs: { y: "f32[N]" },
      wgsl: `
        @group(0) @binding(0) var<storage, read> x: array<u32>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {
          y[id.x] = ${value}.0 + f32(x[id.x] & 0u);
        }`,
      workgroups: ({ N = 0 }): [number, number, number] => [N, 1, 1],
      reference({ y }) {
        y!.fill(value);
      },
    });
  const op: Op = {
    ...writes(1),
    variants: [
      { op: writes(2, "u32"), fits: () => true, suits: () => true },
      { op: writes(3), fits: ({ N = 0 }) => N % 4 === 0, suits: ({ N = 0 }) => N > 10 },
      { op: writes(4), fits: ({ N = 0 }) => N % 4 === 0, suits: () => true },
    ],
  };
  for (const [size, value] of [[3, 1], [8, 4], [12, 3]] as const) {
    const [x, y] = [scope.alloc("f32", [size]), scope.alloc("f32", [size])];
    backend.run(op, { x, y });
    const [bytes] = await backend.read(y);
    assert.deepEqual([...new Float32Array(bytes!.buffer)], new Array<number>(size).fill(value));
  }
});

test("refuses a dispatch over the limit of workgroups", (backend) => {
  using scope = backend.scope();
  const tensors = { x: scope.alloc("f32", [4]), y: scope.alloc("f32", [4]) };
  const op: Op = { ...add, workgroups: () => [70000, 1, 1] };
  assert.throws(() => backend.run(op, tensors, { times: 1, other: 1 }), {
    name: "RangeError",
    message: /70000/,
  });
  return Promise.resolve();
});

/**
 * y = a / b by the shaders' `quotient` and z by `nearer_quotient` from a quotient that is `off`
 * units in the last place from the device's.
 */
const QUOTIENTS = defineOp(
  {
    name: "quotients",
    inputs: { a: "f32[N]", b: "f32[N]" },
    outputs: { y: "f32[N]", z: "f32[N]" },
    scalars: { off: "u32" },
    wgsl: `
    struct Args { N: u32, off: u32 }
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read> b: array<f32>;
    @group(0) @binding(2) var<storage, read_write> y: array<f32>;
    @group(0) @binding(3) var<storage, read_write> z: array<f32>;
    @group(1) @binding(0) var<uniform> args: Args;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      if id.x >= args.N { return; }
      let near = bitcast<u32>(a[id.x] / b[id.x]);
      y[id.x] = quotient(a[id.x], b[id.x]);
      z[id.x] = nearer_quotient(a[id.x], b[id.x], bitcast<f32>(near + args.off));
    }`,
    workgroups: ({ N = 0 }): [number, number, number] => [Math.ceil(N / 64), 1, 1],
    reference({ a, b, y, z }) {
      a!.forEach((value: number, i: number) => y![i] = z![i] = value / b![i]!);
    },
  } satisfies Op,
);

test("divides as IEEE does, though a GPU's own division is some units off", async (backend) => {
  // Of any sizes; and extremes of tiles by their scales, which are ties between two codes or next
  // to one.
  const weights = gaussian(12_000, 1).map((w, i) => w * 2 ** (i % 120 - 60));
  const b = gaussian(12_000, 2).map((x, i) => {
    const tie = [7.5, 1.5, 127.5, 3.5][i % 4]!;
    return i % 2 ? Math.abs(weights[i]!) / tie : x;
  });
  using scope = backend.scope();
  const tensors = {
    a: scope.alloc("f32", [weights.length]),
    b: scope.alloc("f32", [weights.length]),
    y: scope.alloc("f32", [weights.length]),
    z: scope.alloc("f32", [weights.length]),
  };
  backend.write(tensors.a, new Uint8Array(weights.buffer));
  backend.write(tensors.b, new Uint8Array(b.buffer));
  for (const off of [-3, -2, -1, 0, 1, 2, 3]) {
    backend.run(QUOTIENTS, tensors, { off: off >>> 0 });
    const [own, mended] = (await backend.read(tensors.y, tensors.z))
      .map((bytes) => new Float32Array(bytes.buffer));
    weights.forEach((a, i) => {
      const by = b[i]!;
      const right = Math.fround(a / by);
      assert.equal(own![i], right, `${a} / ${by}`);
      assert.equal(mended![i], right, `${a} / ${by} from ${off} units beside it`);
    });
  }
});

test("says that the device is lost, at every later call", async (backend) => {
  using x = backend.alloc("f32", [1]);
  backend.write(x, floats(1));
  backend.device.destroy();
  const lost = { name: "DeviceError", kind: "lost" };
  await assert.rejects(backend.read(x), lost);
  await assert.rejects(backend.finish(), lost);
  assert.throws(() => backend.alloc("f32", [1]), lost);
  assert.throws(() => backend.write(x, floats(1)), lost);
});

Deno.test({
  name: "describeAdapters() lists each adapter once, with the requests that return it",
  ignore: ABSENT_GPU !== undefined,
  async fn() {
    const adapters = await describeAdapters();
    assert.equal(new Set(adapters.map(({ name }) => name)).size, adapters.length);
    for (const { name, requests, limits } of adapters) {
      assert.ok(name.length > 0);
      assert.ok(requests.length > 0);
      assert.ok(limits.maxBufferSize! >= 2 ** 28);
    }
  },
});
