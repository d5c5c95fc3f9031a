/**
 * The conformance suite of a format: for every scheme it holds and odd shapes, `layout` tells the
 * truth, packing by slices of rows gives the bytes of packing at once, `unpack` and `recognize`
 * give back what was packed, and what it cannot hold is refused.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Backend, Scope, Tensor } from "../../src/backend.ts";
import type { Format, Packer, PlannedWeight, ReadTensor, StoredWeight } from "../../src/format.ts";
import { narrowed } from "../../src/formats/bytes.ts";
import { torchName } from "../../src/formats/config_json.ts";
import { bf16ToF32, f32ToBf16, f32ToF16 } from "../../src/number.ts";
import type { Quantized, ScaleDType, Scheme, Strategy } from "../../src/scheme.ts";
import { schemeKind } from "../../src/schemes/mod.ts";
import type { Rows } from "../../src/source.ts";
import { BITS, byteLength, type DType, matrixShape, type TensorInfo } from "../../src/tensor.ts";
import { withInputScale } from "./given.ts";

const NAME = "model.layers.0.mlp.up_proj.weight";

/** A weight and how it is quantized. */
export interface FormatCase {
  readonly scheme: Scheme;
  readonly shape: readonly number[];
  readonly dtype: "f32" | "bf16" | "f16";
}

const SHAPES: readonly (readonly number[])[] = [[33, 64], [5, 27], [40, 96], [6, 3, 3, 3], [
  64,
  96,
]];

const STRATEGIES: readonly Strategy[] = [
  { kind: "tensor" },
  { kind: "channel" },
  { kind: "group", size: 32 },
  { kind: "group", size: 9 },
  { kind: "block", rows: 8, columns: 16 },
  { kind: "block", rows: 3, columns: 9 },
];

function schemes(scaleDType: ScaleDType): Scheme[] {
  const ints = ([2, 3, 4, 5, 6, 7, 8] as const).flatMap((bits) =>
    (["full", "affine", "restricted"] as const).filter((grid) =>
      grid !== "restricted" || bits === 4
    )
      .flatMap((grid) =>
        STRATEGIES.flatMap((strategy) =>
          (["none", "int8", "int8-static"] as const)
            .filter((activations) => activations === "none" || bits === 8)
            .map((activations) => ({
              kind: "int" as const,
              bits,
              grid,
              strategy,
              scaleDType,
              activations,
            }))
        )
      )
  );
  const fp8s = STRATEGIES.flatMap((strategy) =>
    (["none", "fp8", "fp8-static"] as const).map((activations) => ({
      kind: "fp8" as const,
      strategy,
      scaleDType,
      activations,
    }))
  );
  const codebooks = (["nf4", "fp4"] as const).flatMap((kind) =>
    [32, 64, 128].flatMap((block) =>
      [true, false].map((doubleQuant) => ({ kind, block, doubleQuant }))
    )
  );
  return [
    ...ints,
    ...fp8s,
    ...codebooks,
    ...([2, 3, 4] as const).flatMap((bits) =>
      [0, 1, 8].map((tableRows) => ({
        kind: "codebook" as const,
        bits,
        tableRows,
        tableDType: scaleDType,
      }))
    ),
    { kind: "llm_int8", threshold: 6 },
    { kind: "llm_int8", threshold: 0 },
    ...(["bf16", "f16", "f32"] as const).map((dtype) => ({ kind: "cast" as const, dtype })),
  ];
}

/**
 * Every scheme with every shape it fits; each shape has a dtype of its own, which is that of scales
 * too unless the format has one. Of them, every `stride`-th.
 */
export function formatCases(format: Format, stride = 1): FormatCase[] {
  const cases = SHAPES.flatMap((shape, i) => {
    const dtype = (["bf16", "f32", "f16"] as const)[i % 3]!;
    return schemes(format.scaleDType ?? dtype).filter((scheme) =>
      schemeKind(scheme).check(scheme, shape) === true
    )
      .map((scheme) => ({ scheme, shape, dtype }));
  });
  return cases.filter((_, i) => i % stride === 0);
}

/** The weight of a case, which is drawn once however many slices are cut from it. */
const drawn = new Map<string, Uint8Array<ArrayBuffer>>();

/** Bytes of pseudo-random weights around 0, the same every time, with a row and a half of zeros. */
function weightBytes({ shape, dtype }: FormatCase): Uint8Array<ArrayBuffer> {
  return drawn.getOrInsertComputed(`${dtype} ${shape}`, () => drawWeight({ shape, dtype }));
}

function drawWeight(
  { shape, dtype }: Pick<FormatCase, "shape" | "dtype">,
): Uint8Array<ArrayBuffer> {
  const [rows, columns] = matrixShape(shape);
  let state = 12345;
  const values = Float32Array.from({ length: rows * columns }, (_, i) => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    const zero = i >= 3 * columns && i < 4.5 * columns;
    return zero ? 0 : bf16ToF32(f32ToBf16((state / 2 ** 32 - 0.5) ** 3));
  });
  if (dtype === "f32") return new Uint8Array(values.buffer);
  const halves = Uint16Array.from(values, dtype === "bf16" ? f32ToBf16 : f32ToF16);
  return new Uint8Array(halves.buffer);
}

/** The fixed scale of every input: a number that all dtypes of scales have. */
const INPUT_SCALE = 0.046875;

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Rows `[from, to)` of the weight, quantized. */
async function quantizeRows(
  case_: FormatCase,
  { from, to }: Rows,
  scope: Scope,
): Promise<Quantized> {
  const [, columns] = matrixShape(case_.shape);
  const rowBytes = columns * BITS[case_.dtype] / 8;
  const weight = scope.alloc(case_.dtype, [to - from, columns]);
  scope.backend.write(weight, weightBytes(case_).slice(from * rowBytes, to * rowBytes));
  const { scheme } = case_;
  const quantized = await schemeKind(scheme).quantize(scheme, weight, { scope, search: "minmax" });
  return withInputScale(quantized, INPUT_SCALE, scope);
}

/** Stored tensors being filled; every byte may be given once. */
class Stored {
  readonly bytes = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly #given = new Map<string, Uint8Array>();
  constructor(readonly layout: readonly TensorInfo[]) {
    for (const tensor of layout) {
      assert(!this.bytes.has(tensor.name), `layout names ${tensor.name} twice`);
      this.bytes.set(tensor.name, new Uint8Array(byteLength(tensor)));
      this.#given.set(tensor.name, new Uint8Array(byteLength(tensor)));
    }
  }
  take(pieces: Awaited<ReturnType<Packer["add"]>>): void {
    for (const { tensor, offset, bytes } of pieces) {
      const to = this.bytes.get(tensor);
      assert(to, `a piece of ${tensor}, which layout did not give`);
      assert(
        Number.isInteger(offset) && offset >= 0 && offset + bytes.length <= to.length,
        `${bytes.length} bytes at ${offset} of ${tensor}, which has ${to.length}`,
      );
      to.set(bytes, offset);
      const given = this.#given.get(tensor)!.subarray(offset, offset + bytes.length);
      const twice = given.indexOf(1);
      assert(twice === -1, `byte ${offset + twice} of ${tensor} was given twice`);
      given.fill(1);
    }
  }
  complete(): void {
    for (const [tensor, given] of this.#given) {
      assert.equal(given.indexOf(0), -1, `byte ${given.indexOf(0)} of ${tensor} was never given`);
    }
  }
  /** As a source reads: whole tensors, or rows of them. */
  readonly read: ReadTensor = (name, rows) => {
    const bytes = this.bytes.get(name)!;
    const { dtype, shape } = this.layout.find((tensor) => tensor.name === name)!;
    const rowBytes = byteLength({ dtype, shape: shape.slice(1) });
    if (rows) {
      assert(rows.from >= 0 && rows.from < rows.to && rows.to <= shape[0]!, `rows of ${name}`);
    }
    return Promise.resolve(
      rows ? bytes.slice(rows.from * rowBytes, rows.to * rowBytes) : bytes.slice(),
    );
  };
}

/** Quantize and pack a weight in slices of `sliceRows`. */
export async function packSlices(
  format: Format,
  case_: FormatCase,
  { backend, sliceRows }: { readonly backend: Backend; readonly sliceRows: number },
): Promise<Stored> {
  const weight = { name: NAME, dtype: case_.dtype, shape: case_.shape };
  const [rows] = matrixShape(case_.shape);
  using scope = backend.scope();
  const stored = new Stored(format.layout(weight, case_.scheme));
  const packer = format.packer(weight, case_.scheme, scope);
  for (let from = 0; from < rows; from += sliceRows) {
    const slice = { from, to: Math.min(rows, from + sliceRows) };
    using scratch = backend.scope();
    stored.take(await packer.add(await quantizeRows(case_, slice, scratch), slice));
  }
  stored.take(await packer.finish());
  stored.complete();
  return stored;
}

async function bytesByName(
  { tensors }: Quantized,
  backend: Backend,
): Promise<Record<string, Uint8Array>> {
  const names = Object.keys(tensors).sort();
  const bytes = await backend.read(...names.map((name) => tensors[name]!));
  return Object.fromEntries(names.map((name, i) => [name, bytes[i]!]));
}

/** Whether two arrays have the same bytes. */
function same(a: ArrayBufferView, b: ArrayBufferView): boolean {
  const [x, y] = [a, b].map((view) =>
    Buffer.from(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength)
  );
  return x!.equals(y!);
}

async function values(quantized: Quantized, scope: Scope): Promise<Float32Array> {
  const tensor: Tensor = schemeKind(quantized.scheme).dequantize(quantized, scope);
  const [bytes] = await scope.backend.read(tensor);
  return new Float32Array(bytes!.buffer);
}

/** What `plain` stores of a weight: its values, in the dtype that it had or is cast to. */
function roundedValues(quantized: Quantized, { dtype }: FormatCase, scope: Scope): Quantized {
  const { scheme } = quantized;
  if (scheme.kind === "cast") return quantized;
  const values = schemeKind(scheme).dequantize(quantized, scope);
  return { ...quantized, tensors: { weight: narrowed(values, dtype, scope) } };
}

/**
 * Nested statistics lose something: what is left of `absmax` must be within the widest gap of the
 * dynamic map.
 */
async function checkNested(got: Quantized, want: Quantized, backend: Backend): Promise<void> {
  const read = async ({ tensors }: Quantized) => {
    const [codes, absmax] = await backend.read(tensors.codes!, tensors.absmax!);
    return { codes: codes!.join(), absmax: new Float32Array(absmax!.buffer) };
  };
  const [a, b] = [await read(got), await read(want)];
  assert.equal(a.codes, b.codes);
  const mean = b.absmax.reduce((sum, x) => sum + x, 0) / b.absmax.length;
  const spread = b.absmax.reduce((most, x) => Math.max(most, Math.abs(x - mean)), 0);
  a.absmax.forEach((x, i) => {
    assert(
      Math.abs(x - b.absmax[i]!) <= spread * 0.0079,
      `absmax[${i}] is ${x}, was ${b.absmax[i]}`,
    );
  });
}

/**
 * What a section can say of a scheme: not whether the lowest code is left out; of awq's not whether
 * zero points differ.
 */
function asStored(scheme: Scheme, { name }: Format): Scheme {
  if (scheme.kind !== "int") return scheme;
  if (name === "awq") return { ...scheme, grid: "affine" };
  return scheme.grid === "restricted" ? { ...scheme, grid: "full" } : scheme;
}

/** One case of the suite; whether the format holds it. */
export async function checkFormat(
  format: Format,
  case_: FormatCase,
  backend: Backend,
): Promise<boolean> {
  const { scheme, shape, dtype } = case_;
  const weight: TensorInfo = { name: NAME, dtype, shape };
  const verdict = format.supports(scheme, weight);
  if (verdict !== true) {
    assert(verdict.length > 20 && !verdict.endsWith("."), `a refusal must be a reason: ${verdict}`);
    return false;
  }
  const [rows, columns] = matrixShape(shape);
  const steps = [
    schemeKind(scheme).rowStep(scheme, shape),
    format.rowStep(scheme, weight),
  ] as const;
  const step = Math.min(rows, steps[0] * steps[1] / greatestCommonDivisor(...steps));

  const whole = await packSlices(format, case_, { backend, sliceRows: rows });
  const slices = await packSlices(format, case_, { backend, sliceRows: step });
  for (const [name, bytes] of whole.bytes) {
    assert(same(slices.bytes.get(name)!, bytes), `${name} packed by ${step} rows`);
  }

  using scope = backend.scope();
  const parts = whole.layout;
  const stored: StoredWeight = { name: NAME, shape, scheme, parts };
  const before = await quantizeRows(case_, { from: 0, to: rows }, scope);
  const after = await format.unpack(stored, whole.read, { scope });
  assert.deepEqual([after.rows, after.columns], [rows, columns]);
  if ((scheme.kind === "nf4" || scheme.kind === "fp4") && scheme.doubleQuant) {
    await checkNested(after, before, backend);
  } else {
    const got = await bytesByName(after, backend);
    const want = await bytesByName(
      format.name === "plain" ? roundedValues(before, case_, scope) : before,
      backend,
    );
    for (const name of Object.keys(got)) {
      assert(want[name] && same(got[name]!, want[name]), `unpacked ${name}`);
    }
  }

  const all = await values(after, scope);
  for (let from = 0; from < rows; from += step) {
    const slice = { from, to: Math.min(rows, from + step) };
    const part = await format.unpack(stored, whole.read, { scope, rows: slice });
    assert(
      same(await values(part, scope), all.subarray(from * columns, slice.to * columns)),
      `rows ${from} to ${slice.to}`,
    );
  }

  const planned: PlannedWeight[] = [
    { name: NAME, shape, scheme, linear: true },
    { name: "lm_head.weight", shape: [8, columns], scheme: undefined, linear: true },
  ];
  const section = format.section({
    weights: planned,
    config: { model_type: "llama", architectures: ["LlamaForCausalLM"] },
    dtype: torchName(dtype),
  });
  const source = {
    tensors: new Map(parts.map((part) => [part.name, part])),
    config: section === undefined ? {} : { quantization_config: JSON.parse(section) },
    read: whole.read,
  };
  const found = await format.recognize(source);
  if (section === undefined) {
    assert.equal(found, undefined);
  } else {
    assert.deepEqual([...found!.keys()], [NAME]);
    const { scheme: read, shape: size, parts: pieces } = found!.get(NAME)!;
    assert.deepEqual({ read, size, pieces }, {
      read: asStored(scheme, format),
      size: shape,
      pieces: parts,
    });
  }
  return true;
}

/** As a person would say it, for a failure's message. */
export function caseLabel({ scheme, shape, dtype }: FormatCase): string {
  return `${schemeKind(scheme).label(scheme)}, ${dtype satisfies DType}[${shape}]`;
}
