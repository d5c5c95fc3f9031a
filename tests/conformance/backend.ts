/**
 * The conformance suite of a backend: every op against its definition (cases in `cases_*.ts`), and
 * memory, order and faults. `deno test -A tests/backends_test.ts --filter "wasm matmul_nt"` runs
 * one op on one backend.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import type { Backend, Tensor } from "../../src/backend.ts";
import { referenceBackend } from "../../src/backends/reference.ts";
import { withoutSubnormals } from "../../src/backends/spot_judge.ts";
import { argumentsOf, bindDims, deviceBytes, fittingVariants, type Op } from "../../src/op.ts";
import { OPS } from "../../src/ops/mod.ts";
import { backwardCases } from "./cases_backward.ts";
import { calibrationCases } from "./cases_calibration.ts";
import { codebookCases } from "./cases_codebook.ts";
import { gridCases } from "./cases_grid.ts";
import { hqqCases } from "./cases_hqq.ts";
import { matmulCases } from "./cases_matmul.ts";
import { memoryCases } from "./cases_memory.ts";
import { modelCases } from "./cases_model.ts";
import { latentsCases } from "./cases_latents.ts";
import { polishCases } from "./cases_polish.ts";
import { type Values, valuesOf } from "./given.ts";
import { caseOf, Draw, DRAWING } from "./draw.ts";
import { DRAWS } from "./draws.ts";
import { type Case, equal, type View } from "./judge.ts";

/** Every listed case. */
export const CASES: readonly Case[] = [
  ...memoryCases,
  ...gridCases,
  ...codebookCases,
  ...matmulCases,
  ...modelCases,
  ...backwardCases,
  ...calibrationCases,
  ...latentsCases,
  ...polishCases,
  ...hqqCases,
];

/** How a case reads in a test's name. */
function describeCase({ tensors, scalars = {}, note }: Case): string {
  const parts = Object.entries(tensors).map(([name, { dtype, shape }]) =>
    `${name} ${dtype}[${shape}]`
  );
  const settings = Object.entries(scalars).map(([name, value]) => `${name}=${value}`);
  return [...parts, ...settings, ...(note ? [`(${note})`] : [])].join(" ");
}

/** The outputs of one run of a case. */
async function runCase(
  backend: Backend,
  { op, tensors, scalars = {} }: Case,
  { dirty, flush = false }: { dirty: number; flush?: boolean },
): Promise<Record<string, Values>> {
  using scope = backend.scope();
  // Memory that held something else before: bytes past a tensor's end must not matter.
  const stale = Object.values(tensors).map((given) => backend.alloc("u8", [deviceBytes(given)]));
  for (const tensor of stale) {
    backend.write(tensor, new Uint8Array(tensor.shape[0]!).fill(dirty));
    tensor[Symbol.dispose]();
  }
  const args: Record<string, Tensor> = {};
  // What an op may not write: its inputs, and what lies between its arguments.
  const kept: { tensor: Tensor; content: Uint8Array; what: string }[] = [];
  for (const [name, { dtype, shape, bytes, blank }] of Object.entries(tensors)) {
    args[name] = scope.alloc(dtype, shape);
    const written = blank ? new Uint8Array(bytes.length).fill(dirty) : bytes;
    const content = flush ? withoutSubnormals(dtype, written) : written;
    backend.write(args[name], content);
    if (name in op.inputs) kept.push({ tensor: args[name], content, what: name });
    const guard = scope.alloc("u8", [64]);
    backend.write(guard, new Uint8Array(64).fill(0x5a));
    kept.push({ tensor: guard, content: new Uint8Array(64).fill(0x5a), what: `past ${name}` });
  }
  backend.run(op, args, scalars);
  const names = Object.keys(op.outputs);
  const read = await backend.read(
    ...names.map((name) => args[name]!),
    ...kept.map(({ tensor }) => tensor),
  );
  kept.forEach(({ content, what }, i) => {
    const same = Buffer.compare(read[names.length + i]!, content) === 0;
    assert.ok(same, `${op.name} has written where it may only read: ${what}`);
  });
  return Object.fromEntries(
    names.map((name, i) => {
      const { dtype } = tensors[name]!;
      const bytes = flush ? withoutSubnormals(dtype, read[i]!) : read[i]!;
      return [name, valuesOf(dtype, bytes)];
    }),
  );
}

/** What the definition of a case's op gives, and gives where subnormal numbers are taken for 0. */
interface Definition {
  readonly want: Record<string, Values>;
  readonly flushed: () => Promise<Record<string, Values>>;
}

/** Definitions of the listed cases: some take seconds, and every backend is held against them. */
const definitions = new Map<Case, Promise<Definition>>();

async function define(row: Case): Promise<Definition> {
  await using definition = referenceBackend();
  const want = await runCase(definition, row, { dirty: 0 });
  const tensors = Object.values(row.tensors);
  // Without a subnormal number in it, the same is computed; only results may be subnormal.
  const same = tensors.every(({ dtype, bytes }) =>
    Buffer.compare(withoutSubnormals(dtype, bytes), bytes) === 0
  );
  let flushed: Promise<Record<string, Values>> | undefined;
  return {
    want,
    flushed: () =>
      flushed ??= same
        ? Promise.resolve(
          Object.fromEntries(Object.entries(want).map(([name, x]) => [name, flushedValues(x)])),
        )
        : runCase(referenceBackend(), row, { dirty: 0, flush: true }),
  };
}

/** The same numbers with 0 for those that f32 has as subnormal ones. */
function flushedValues(values: Values): Values {
  return values instanceof Float32Array
    ? values.map((value) => Math.abs(value) < 2 ** -126 ? 0 : value)
    : values;
}

/** Ops without their variants, so that a GPU runs the WGSL of the op itself. */
const plainOps = new Map<Op, Op>();

function plainOp(op: Op): Op {
  return plainOps.getOrInsertComputed(op, () => ({ ...op, variants: [] }));
}

/** The variants of an op that compute a case. */
function variantsOf({ op, tensors, scalars = {} }: Case): Op[] {
  const call = {
    dims: bindDims(op, tensors, scalars),
    scalars,
    dtypes: argumentsOf(op).map(([name]) => tensors[name]!.dtype),
  };
  return fittingVariants(op, call).map(({ op }) => op);
}

/** Run one case on a backend, on a GPU with every kernel for it, and judge what it gives. */
async function check(
  backend: Backend,
  row: Case,
  definition: Promise<Definition> = define(row),
): Promise<void> {
  const { op, tensors, scalars = {} } = row;
  const exact = backend.name !== "webgpu";
  const { want, flushed } = await definition;
  const also = exact ? want : await flushed();
  const before = Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, bytes }]) => [name, valuesOf(dtype, bytes)]),
  );
  const kernels = exact ? [op] : [plainOp(op), ...variantsOf(row)];
  for (const kernel of kernels) {
    const view: View = {
      dims: bindDims(op, tensors, scalars),
      scalars,
      before,
      want,
      also,
      got: await runCase(backend, { ...row, op: kernel }, { dirty: 0xff }),
      exact,
    };
    for (const output of Object.keys(op.outputs)) {
      try {
        (row.judge?.[output] ?? equal)(view, output);
      } catch (error) {
        throw new Error(`${kernel.name}: ${(error as Error).message}`, { cause: error });
      }
    }
  }
}

/** A case of an op by chance, judged as those of the lists are. */
function drawCase(op: Op, draw: Draw): Case {
  const drawn = DRAWS[op.name]!(draw);
  if ("op" in drawn) return drawn;
  const { judge } = CASES.find((row) => row.op === op)!;
  return { ...caseOf(op, draw, drawn), ...(judge ? { judge } : {}) };
}

/** Run cases by chance on a backend, and tell the smallest that fails. */
async function checkDrawn(backend: Backend, op: Op): Promise<void> {
  const property = fc.asyncProperty(fc.gen(), async (next) => {
    const row = drawCase(op, new Draw(next));
    try {
      await check(backend, row);
    } catch (cause) {
      throw new Error(`${op.name} ${describeCase(row)}: ${(cause as Error).message}`, { cause });
    }
  });
  await fc.assert(property, DRAWING);
}

/**
 * Register the suite for one backend. `open` gives the backend, or a sentence that says why there
 * is none here.
 */
export async function testBackend(
  name: string,
  open: () => Promise<Backend | string>,
  { ops }: { readonly ops?: readonly Op[] } = {},
): Promise<void> {
  const tested = ops ?? OPS;
  let backend: Backend | string;
  try {
    backend = await open();
  } catch (error) {
    // One broken backend fails one test, and leaves the others theirs.
    Deno.test(`${name} opens`, () => {
      throw error;
    });
    return;
  }
  if (typeof backend === "string") {
    Deno.test({ name: `${name} is absent: ${backend}`, ignore: true, fn: () => {} });
    return;
  }
  const device = backend;
  const test = (title: string, fn: () => Promise<void>) =>
    Deno.test({ name: `${name} ${title}`, fn, sanitizeOps: false, sanitizeResources: false });
  Deno.test.afterAll(async () => await device[Symbol.asyncDispose]());

  for (const op of OPS) {
    if (!CASES.some((row) => row.op === op)) throw new Error(`No case tests ${op.name}`);
    if (!(op.name in DRAWS)) throw new Error(`No case of ${op.name} is drawn`);
    const tested = new Set(CASES.filter((row) => row.op === op).flatMap(variantsOf));
    for (const variant of op.variants ?? []) {
      if (!tested.has(variant.op)) throw new Error(`No case tests ${variant.op.name}`);
    }
  }
  for (const row of CASES) {
    if (!tested.includes(row.op) || (row.ieeeOnly && device.name === "webgpu")) continue;
    test(
      `${row.op.name} agrees with its definition for ${describeCase(row)}`,
      () => check(device, row, definitions.getOrInsertComputed(row, define)),
    );
  }
  // The definitions agree with themselves.
  for (const op of device.name === "reference" ? [] : tested) {
    test(`${op.name} agrees with its definition at random sizes`, () => checkDrawn(device, op));
  }
  if (ops) return;
  for (const [title, body] of Object.entries(BEHAVIOURS)) test(title, () => body(device));
}

/** What any backend does besides computing. */
const BEHAVIOURS: Readonly<Record<string, (backend: Backend) => Promise<void>>> = {
  async "gives back exactly the bytes written, whatever the size"(backend) {
    using scope = backend.scope();
    for (const size of [1, 3, 4, 5, 255, 257]) {
      const tensor = scope.alloc("u8", [size]);
      const bytes = Uint8Array.from({ length: size }, (_, i) => i * 7 + 1);
      backend.write(tensor, bytes);
      assert.deepEqual(await backend.read(tensor), [bytes]);
    }
  },
  async "leaves the rest of a tensor as it was when fewer bytes are written"(backend) {
    using scope = backend.scope();
    const tensor = scope.alloc("u8", [11]);
    backend.write(tensor, new Uint8Array(11).fill(9));
    backend.write(tensor, Uint8Array.of(1, 2, 3, 4, 5));
    const [bytes] = await backend.read(tensor);
    assert.deepEqual([...bytes!], [1, 2, 3, 4, 5, 9, 9, 9, 9, 9, 9]);
  },
  "refuses more bytes than a tensor has"(backend) {
    using tensor = backend.alloc("u8", [4]);
    assert.throws(() => backend.write(tensor, new Uint8Array(5)), RangeError);
    return Promise.resolve();
  },
  async "reads several tensors in the order asked"(backend) {
    using scope = backend.scope();
    const tensors = [3, 1, 2].map((value) => {
      const tensor = scope.alloc("u8", [value]);
      backend.write(tensor, new Uint8Array(value).fill(value));
      return tensor;
    });
    const read = await backend.read(...tensors, tensors[0]!);
    assert.deepEqual(read.map((bytes) => [...bytes]), [[3, 3, 3], [1], [2, 2], [3, 3, 3]]);
    assert.deepEqual(await backend.read(), []);
  },
  async "runs writes and ops in the order they were queued"(backend) {
    using scope = backend.scope();
    const [x, y] = [scope.alloc("f32", [70]), scope.alloc("f32", [70])];
    const fill = (tensor: Tensor, value: number) =>
      backend.write(tensor, new Uint8Array(new Float32Array(70).fill(value).buffer));
    const add = OPS.find(({ name }) => name === "add")!;
    fill(x, 1);
    fill(y, 10);
    backend.run(add, { x, y }, { times: 1, other: 1 });
    fill(y, 100);
    backend.run(add, { x, y }, { times: 1, other: 1 });
    fill(y, 1000);
    for (let i = 0; i < 200; i++) backend.run(add, { x, y }, { times: 1, other: 1 });
    const [bytes] = await backend.read(x);
    assert.deepEqual(new Set(new Float32Array(bytes!.buffer)), new Set([200_111]));
  },
  async "has finished what was queued when finish() returns, and can go on"(backend) {
    using scope = backend.scope();
    const [x, y] = [scope.alloc("f32", [1]), scope.alloc("f32", [1])];
    const add = OPS.find(({ name }) => name === "add")!;
    for (const tensor of [x, y]) backend.write(tensor, new Uint8Array(Float32Array.of(2).buffer));
    backend.run(add, { x, y }, { times: 1, other: 1 });
    await backend.finish();
    backend.run(add, { x, y }, { times: 1, other: 1 });
    const [bytes] = await backend.read(x);
    assert.deepEqual([...new Float32Array(bytes!.buffer)], [6]);
  },
  async "keeps what a queued op needs when its tensors are disposed at once"(backend) {
    using out = backend.alloc("f32", [300]);
    backend.write(out, new Uint8Array(1200));
    const add = OPS.find(({ name }) => name === "add")!;
    for (let round = 0; round < 20; round++) {
      using y = backend.alloc("f32", [300]);
      backend.write(y, new Uint8Array(new Float32Array(300).fill(round).buffer));
      backend.run(add, { x: out, y }, { times: 1, other: 1 });
    }
    const [bytes] = await backend.read(out);
    assert.deepEqual(new Set(new Float32Array(bytes!.buffer)), new Set([190]));
  },
  "names both arguments whose shapes disagree"(backend) {
    using scope = backend.scope();
    const matmul = OPS.find(({ name }) => name === "matmul_nt")!;
    const tensors = {
      x: scope.alloc("f32", [2, 3]),
      w: scope.alloc("f32", [4, 5]),
      y: scope.alloc("f32", [2, 4]),
    };
    assert.throws(() => backend.run(matmul, tensors, { column: 0 }), {
      name: "RangeError",
      message: 'Cannot run matmul_nt: "w" has C = 5 and "x" has C = 3',
    });
    return Promise.resolve();
  },
  "supports every op"(backend) {
    for (const op of OPS) assert.equal(backend.supports(op), true, op.name);
    return Promise.resolve();
  },
};
