// deno-lint-ignore-file no-console
/**
 * The shipped WGSL matrix product against the best of a sweep over its own kind on this adapter:
 * tile sizes, lanes and depths, with and without workgroup memory. The goal for one fixed default
 * is 0.75 of each adapter's best.
 */
import matmulHead from "../../shaders/matmul_nt.wgsl" with { type: "text" };
import { openWebgpu } from "../../src/backends/webgpu/mod.ts";
import { DeviceError } from "../../src/errors.ts";
import type { Op } from "../../src/op.ts";
import { matmulNt } from "../../src/ops/mod.ts";
import { compare, formatRatio, type Ratio } from "./measure.ts";

/**
 * A kernel of the sweep: a lane computes `rows` × `columns` elements, a workgroup has `down` ×
 * `across` lanes.
 */
interface Variant {
  readonly rows: number;
  readonly columns: number;
  readonly down: number;
  readonly across: number;
  /** Columns of C held in workgroup memory at a time; 0: lanes read global memory. */
  readonly depth: number;
}

const SWEEP: readonly Variant[] = [
  { rows: 8, columns: 8, down: 8, across: 8, depth: 8 },
  { rows: 8, columns: 8, down: 8, across: 8, depth: 16 },
  { rows: 8, columns: 8, down: 8, across: 8, depth: 32 },
  { rows: 8, columns: 8, down: 16, across: 16, depth: 8 },
  { rows: 8, columns: 4, down: 8, across: 8, depth: 16 },
  { rows: 4, columns: 4, down: 8, across: 8, depth: 16 },
  { rows: 4, columns: 4, down: 16, across: 16, depth: 16 },
  { rows: 8, columns: 8, down: 8, across: 8, depth: 0 },
  { rows: 8, columns: 8, down: 8, across: 4, depth: 0 },
  { rows: 8, columns: 4, down: 8, across: 8, depth: 0 },
  { rows: 4, columns: 8, down: 8, across: 8, depth: 0 },
];

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

function lines<T>(items: readonly T[], line: (item: T) => string): string {
  return items.map(line).join("\n");
}

/** `matmul_nt` by another kernel. */
function opOf(variant: Variant): Op {
  const { rows, columns, down, across, depth } = variant;
  const [height, width] = [rows * down, columns * across];
  return {
    ...matmulNt,
    name: `${rows}x${columns} lanes ${down}x${across} ${depth ? `depth ${depth}` : "direct"}`,
    workgroups: ({ T = 0, R = 0 }) => [Math.ceil(R / width), Math.ceil(T / height), 1],
    wgsl: matmulHead + (depth ? sharedKernel(variant) : directKernel(variant)),
  };
}

/**
 * Registers of a lane, their update from row values `a0…` and column vectors `b0…`, and their
 * store.
 */
function registers({ rows, columns }: Variant) {
  const all = range(rows).flatMap((i) => range(columns / 4).map((j) => ({ i, j })));
  return {
    declare: lines(all, ({ i, j }) => `var s${i}_${j} = vec4(0.0);`),
    update: (row: (i: number) => string) =>
      lines(all, ({ i, j }) => `s${i}_${j} += ${row(i)} * b${j};`),
    store: (t: (i: number) => string, r: (j: number) => string) =>
      lines(all, ({ i, j }) => `put_four(${t(i)}, ${r(j)}, s${i}_${j});`),
  };
}

const PUT_FOUR = `
fn put_four(t: u32, r: u32, values: vec4<f32>) {
  if t >= args.T { return; }
  for (var k = 0u; k < min(4u, args.R - min(r, args.R)); k++) { put(t, r + k, values[k]); }
}`;

/** Tiles of both operands in workgroup memory, four rows to a vector, as in matmul_tile.wgsl. */
function sharedKernel(variant: Variant): string {
  const { rows, columns, down, across, depth } = variant;
  const lanes = down * across;
  const [pitchX, pitchW] = [rows * down / 4 + 1, columns * across / 4 + 1];
  const { declare, update, store } = registers(variant);
  const load = (array: string, { pitch, from, last, at }: Record<string, string | number>) => `
    for (var four = lane / ${depth}u; four < ${pitch}u - 1u; four += ${lanes / depth}u) {
      let i = min(vec4(${from} + four * 4u) + vec4(0u, 1u, 2u, 3u), vec4(${last} - 1u));
      let values = vec4(${at}(i.x, column), ${at}(i.y, column), ${at}(i.z, column), ${at}(i.w, column));
      ${array}[lane % ${depth}u * ${pitch}u + four] = select(vec4(0.0), values, inside);
    }`;
  return `${PUT_FOUR}
var<workgroup> xs: array<vec4<f32>, ${depth * pitchX}>;
var<workgroup> ws: array<vec4<f32>, ${depth * pitchW}>;
@compute @workgroup_size(${lanes})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let ty = lane / ${across}u;
  let tx = lane % ${across}u;
  let t0 = group.y * ${rows * down}u;
  let r0 = group.x * ${columns * across}u;
  ${declare}
  for (var c = 0u; c < args.C; c += ${depth}u) {
    let column = min(c + lane % ${depth}u, args.C - 1u);
    let inside = c + lane % ${depth}u < args.C;
    ${load("xs", { pitch: pitchX, from: "t0", last: "args.T", at: "x_at" })}
    ${load("ws", { pitch: pitchW, from: "r0", last: "args.R", at: "w_at" })}
    workgroupBarrier();
    for (var k = 0u; k < ${depth}u; k++) {
      ${lines(range(rows / 4), (i) => `let a${i} = xs[k * ${pitchX}u + ${i * down}u + ty];`)}
      ${lines(range(columns / 4), (j) => `let b${j} = ws[k * ${pitchW}u + ${j * across}u + tx];`)}
      ${update((i) => `a${i >> 2}.${"xyzw"[i & 3]}`)}
    }
    workgroupBarrier();
  }
  ${
    store(
      (i) => `t0 + ${(i >> 2) * down * 4 + (i & 3)}u + ty * 4u`,
      (j) => `r0 + ${j * across * 4}u + tx * 4u`,
    )
  }
}`;
}

/** Every lane reads its rows of both operands from global memory. */
function directKernel(variant: Variant): string {
  const { rows, columns, down, across } = variant;
  const { declare, update, store } = registers(variant);
  const four = (j: number) => range(4).map((k) => `w_at(r${4 * j + k}, c)`).join(", ");
  return `${PUT_FOUR}
@compute @workgroup_size(${down * across})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = (group.y * ${down}u + lane / ${across}u) * ${rows}u;
  let r = (group.x * ${across}u + lane % ${across}u) * ${columns}u;
  ${lines(range(rows), (i) => `let t${i} = min(t + ${i}u, args.T - 1u);`)}
  ${lines(range(columns), (j) => `let r${j} = min(r + ${j}u, args.R - 1u);`)}
  ${declare}
  for (var c = 0u; c < args.C; c++) {
    ${lines(range(rows), (i) => `let a${i} = x_at(t${i}, c);`)}
    ${lines(range(columns / 4), (j) => `let b${j} = vec4(${four(j)});`)}
    ${update((i) => `a${i}`)}
  }
  ${store((i) => `t + ${i}u`, (j) => `r + ${4 * j}u`)}
}`;
}

/** Run it. */
export async function run(rounds = 7): Promise<Ratio[]> {
  const what = "WGSL matmul_nt, bf16 weights / the best of its sweep";
  let backend;
  try {
    backend = await openWebgpu();
  } catch (error) {
    if (!(error instanceof DeviceError && error.kind === "absent")) throw error;
    return [{ what, ratio: NaN, detail: `not measured: ${error.message}` }];
  }
  await using _open = backend;
  const [T, R, C] = backend.software ? [512, 512, 1024] : [2048, 4096, 4096];
  using scope = backend.scope();
  const tensors = {
    x: scope.alloc("f32", [T, C]),
    w: scope.alloc("bf16", [R, C]),
    y: scope.alloc("f32", [T, R]),
  };
  backend.write(tensors.x, new Uint8Array(new Float32Array(T * C).map((_, i) => i % 7 - 3).buffer));
  // bf16 from 0x3c00 on: 2^-7 and a little more.
  backend.write(
    tensors.w,
    new Uint8Array(new Uint16Array(R * C).map((_, i) => 0x3c00 + i % 251).buffer),
  );

  /** Seconds of `times` products, without what an idle wait costs. */
  async function seconds(op: Op, times: number): Promise<number> {
    const begun = performance.now();
    await backend!.finish();
    const idle = performance.now();
    for (let i = 0; i < times; i++) backend!.run(op, tensors, { column: 0 });
    await backend!.finish();
    return Math.max(1e-6, (performance.now() - idle - (idle - begun)) / 1000) / times;
  }
  /** Every kernel must agree, or its rate means nothing. */
  async function result(op: Op): Promise<Float32Array> {
    backend!.run(op, tensors, { column: 0 });
    const [bytes] = await backend!.read(tensors.y);
    return new Float32Array(bytes!.buffer);
  }

  const ops = [matmulNt, ...SWEEP.map(opOf)];
  const right = await result(matmulNt);
  for (const op of ops) {
    const got = await result(op);
    const wrong = got.findIndex((value, i) => Math.abs(value - right[i]!) > 1e-3);
    if (wrong >= 0) throw new Error(`Kernel ${op.name} gives ${got[wrong]}, not ${right[wrong]}`);
  }
  const times = Math.max(1, Math.ceil(0.1 / await seconds(matmulNt, 1)));
  const work = 2 * T * R * C / 1e9;
  const rates = await compare(
    ops.map((op) => ({ name: op.name, work, turn: () => seconds(op, times) })),
    { rounds },
  );
  const [shipped, ...others] = rates;
  const best = others.reduce((a, b) => a.rate > b.rate ? a : b);
  return [{
    what,
    ratio: shipped!.rate / best.rate,
    goal: 0.75,
    detail: `${shipped!.rate.toFixed(1)} against ${
      best.rate.toFixed(1)
    } GFLOP/s of ${best.name}, ${T}×${C}×${R} on ${backend.description}`,
  }];
}

if (import.meta.main) {
  for (const ratio of await run()) console.log(formatRatio(ratio));
}
