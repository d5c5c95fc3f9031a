/**
 * bitsandbytes' checkpoints read: which weights they hold, and their codes and statistics on a
 * device.
 */
import type { Scope } from "../../backend.ts";
import { CheckpointError, UnsupportedError } from "../../errors.ts";
import type { ReadTensor, StoredWeight } from "../../format.ts";
import type { CodebookScheme, Quantized } from "../../scheme.ts";
import type { Rows, TensorSource } from "../../source.ts";
import { blockRowStep } from "../../scheme.ts";
import { elementCount, matrixShape, type TensorInfo } from "../../tensor.ts";
import { bytesOf, checkRows, floats, readPart } from "../bytes.ts";
import { quantizationSection } from "../config_json.ts";
import { isCodebook, layout, NESTED_BLOCK, type Quantizable } from "./layout.ts";
import { readQuantState } from "./quant_state.ts";

/** The stored tensors of a weight, checked against what `layout` says of its scheme. */
function partsOf(
  weight: TensorInfo,
  scheme: Quantizable,
  tensors: ReadonlyMap<string, TensorInfo>,
): TensorInfo[] {
  return layout(weight, scheme).map((want) => {
    const found = tensors.get(want.name);
    const anyLength = want.name.includes(".quant_state.");
    const same = found?.dtype === want.dtype &&
      (anyLength || elementCount(found.shape) === elementCount(want.shape));
    if (found && same) return found;
    throw new CheckpointError(
      `Cannot read "${weight.name}" as ${scheme.kind}: "${want.name}" must be ${want.dtype}[${want.shape}], ` +
        (found ? `it is ${found.dtype}[${found.shape}]` : "it is missing"),
      { tensor: want.name },
    );
  });
}

/**
 * `absmax` of the blocks `[from, to)`, as the loader computes it from codes and nested statistics.
 */
async function readAbsmax(
  { name, scheme, parts }: StoredWeight,
  read: ReadTensor,
  { from, to }: Rows,
): Promise<Float32Array<ArrayBuffer>> {
  const part = (suffix: string) => parts.find((part) => part.name === `${name}.${suffix}`)!;
  const blocks = { from, to };
  if (!(scheme as CodebookScheme).doubleQuant) {
    return floats(await readPart(part("absmax"), read, blocks));
  }
  const codes = await readPart(part("absmax"), read, blocks);
  const nested = floats(await readPart(part("nested_absmax"), read));
  const map = floats(await readPart(part("nested_quant_map"), read));
  const state = parts.find((part) => part.name.includes(".quant_state."))!;
  const { nestedOffset } = readQuantState(state.name, await readPart(state, read));
  return Float32Array.from(codes, (code, i) => {
    const scale = nested[Math.floor((from + i) / NESTED_BLOCK)]!;
    return Math.fround(Math.fround(map[code]! * scale) + nestedOffset!);
  });
}

/** A weight as it was before, and what it became. */
interface Found {
  readonly weight: TensorInfo;
  readonly scheme: Quantizable;
}

/** More than any quant_state has: three sizes and a few words. */
const QUANT_STATE_LIMIT = 65536;

/** What the quant_state of a 4-bit weight says. */
async function readFourBit(name: string, state: TensorInfo, read: ReadTensor): Promise<Found> {
  if (state.dtype !== "u8" || elementCount(state.shape) > QUANT_STATE_LIMIT) {
    throw new CheckpointError(
      `Cannot read "${state.name}": expected a few hundred bytes of JSON, got ${state.dtype}[${state.shape}]`,
      { tensor: state.name },
    );
  }
  const { kind, block, nestedOffset, dtype, shape } = readQuantState(
    state.name,
    await readPart(state, read),
  );
  return {
    weight: { name, dtype, shape },
    scheme: { kind, block, doubleQuant: nestedOffset !== undefined },
  };
}

/** What the section and the tensors beside an int8 weight say. */
async function readEightBit(
  module: string,
  source: Pick<TensorSource, "tensors" | "read">,
  threshold: unknown,
): Promise<Found> {
  if (typeof threshold !== "number" || !(threshold >= 0)) {
    throw new CheckpointError(
      `Cannot read config.json: llm_int8_threshold must be a number of at least 0, it is ${
        JSON.stringify(threshold)
      }`,
      { file: "config.json" },
    );
  }
  const order = source.tensors.get(`${module}.weight_format`);
  const code = order && elementCount(order.shape) === 1 ? (await source.read(order.name))[0] : 0;
  if (code !== 0) {
    throw new UnsupportedError(
      `Cannot read "${module}.weight": its rows are in the order ${code} of old GPUs, not row by row.`,
      { what: `${module}.weight`, reason: `weight_format ${code}` },
    );
  }
  const shape = source.tensors.get(`${module}.weight`)?.shape ?? [0, 0];
  return {
    weight: { name: `${module}.weight`, dtype: "f16", shape },
    scheme: { kind: "llm_int8", threshold },
  };
}

/** The weights of a checkpoint; undefined when its section is not of bitsandbytes. */
export async function recognize(
  source: Pick<TensorSource, "tensors" | "config" | "read">,
): Promise<Map<string, StoredWeight> | undefined> {
  const section = quantizationSection(source.config);
  const isOurs = section?.quant_method === "bitsandbytes" ||
    (section?.quant_method === undefined &&
      (section?.load_in_4bit === true || section?.load_in_8bit === true));
  if (!section || !isOurs) return undefined;
  const read: ReadTensor = (name, rows) => source.read(name, rows);
  const weights = new Map<string, StoredWeight>();
  for (const tensor of source.tensors.values()) {
    const state = /^(.*\.weight)\.quant_state\.bitsandbytes__(?:nf4|fp4)$/.exec(tensor.name);
    const statistics = /^(.*)\.SCB$/.exec(tensor.name);
    const found = state
      ? await readFourBit(state[1]!, tensor, read)
      : statistics
      ? await readEightBit(statistics[1]!, source, section.llm_int8_threshold ?? 6)
      : undefined;
    if (!found) continue;
    const { weight: { name, shape }, scheme } = found;
    const parts = partsOf(found.weight, scheme, source.tensors);
    weights.set(name, { name, shape, scheme, parts });
  }
  return weights;
}

/** A stored weight, or rows of it, on a device. */
export async function unpack(
  stored: StoredWeight,
  read: ReadTensor,
  { scope, rows }: { readonly scope: Scope; readonly rows?: Rows },
): Promise<Quantized> {
  const { name, shape, scheme, parts } = stored;
  const [height, columns] = matrixShape(shape);
  const slice = rows ?? { from: 0, to: height };
  const { backend } = scope;
  const count = slice.to - slice.from;
  if (!isCodebook(scheme)) {
    checkRows(slice, { name, rows: height, step: 1 });
    const codes = scope.alloc("i8", [count, columns]);
    const absmax = scope.alloc("f32", [count, 1]);
    backend.write(codes, await readPart(parts[0]!, read, rows));
    backend.write(absmax, await readPart(parts[1]!, read, rows));
    return { scheme, rows: count, columns, tensors: { codes, absmax } };
  }
  checkRows(slice, { name, rows: height, step: blockRowStep(scheme.block, shape) });
  const first = slice.from * columns;
  const end = slice.to * columns;
  const blocks = { from: first / scheme.block, to: Math.ceil(end / scheme.block) };
  const codes = scope.alloc("u8", [Math.ceil((end - first) / 2)]);
  const absmax = scope.alloc("f32", [blocks.to - blocks.from]);
  backend.write(
    codes,
    await readPart(parts[0]!, read, { from: first / 2, to: Math.ceil(end / 2) }),
  );
  backend.write(absmax, bytesOf(await readAbsmax(stored, read, blocks)));
  return { scheme, rows: count, columns, tensors: { codes, absmax } };
}
