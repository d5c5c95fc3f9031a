/**
 * Two checkpoints side by side: what was to be copied must be the same, byte for byte, and nothing
 * may be there that was not asked for.
 */
import { COPY_BYTES } from "../limits.ts";
import { CheckpointError, quote } from "../errors.ts";
import type { StoredWeight } from "../format.ts";
import { isObject } from "../json.ts";
import type { TensorSource } from "../source.ts";
import { byteLength, type TensorInfo } from "../tensor.ts";

/**
 * Whatever is in the output must be a part of a quantized weight, or a tensor of the source.
 *
 * @throws {CheckpointError} a tensor is neither.
 */
export function checkNothingElse(
  output: TensorSource,
  source: TensorSource,
  weights: ReadonlyMap<string, StoredWeight>,
): void {
  const parts = new Set(
    [...weights.values()].flatMap(({ parts }) => parts.map(({ name }) => name)),
  );
  for (const name of output.tensors.keys()) {
    if (parts.has(name) || (source.tensors.has(name) && !weights.has(name))) continue;
    throw new CheckpointError(
      `Cannot accept ${quote(name)}: it is no part of a quantized weight, and ` +
        `${quote(source.label)} has no such tensor.`,
      { tensor: name },
    );
  }
}

/**
 * Where a tensor first differs from the source's, which has the same name; undefined where they are
 * equal byte for byte. Both are read a piece at a time.
 *
 * @throws {CheckpointError} it has another dtype or shape.
 */
export async function differenceOf(
  { name, dtype, shape }: TensorInfo,
  output: TensorSource,
  source: TensorSource,
  signal: AbortSignal | undefined,
): Promise<number | undefined> {
  const found = output.tensors.get(name)!;
  if (found.dtype !== dtype || found.shape.join() !== shape.join()) {
    throw new CheckpointError(
      `Cannot accept ${quote(name)}: it is ${found.dtype}[${found.shape.join(", ")}], and the ` +
        `source's is ${dtype}[${shape.join(", ")}].`,
      { tensor: name },
    );
  }
  const [rows] = shape;
  const rowBytes = rows ? byteLength(found) / rows : 0;
  // Rows of sub-byte dtypes may end inside a byte: such tensors are read whole.
  const step = Number.isInteger(rowBytes) && rowBytes > 0
    ? Math.max(1, Math.floor(COPY_BYTES / rowBytes))
    : Infinity;
  for (let from = 0; from === 0 || from < rows!; from += step) {
    signal?.throwIfAborted();
    const slice = step === Infinity ? undefined : { from, to: Math.min(rows!, from + step) };
    const [a, b] = await Promise.all([output.read(name, slice), source.read(name, slice)]);
    const at = firstDifference(a, b);
    if (at !== undefined) return from * rowBytes + at;
  }
  return undefined;
}

function firstDifference(a: Uint8Array, b: Uint8Array): number | undefined {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
  return undefined;
}

/**
 * Companion files must be the source's own; the configuration too, but for what quantization
 * changes in it. The files that are equal.
 *
 * @throws {CheckpointError} one is missing or differs.
 */
export async function compareFiles(output: TensorSource, source: TensorSource): Promise<string[]> {
  compareConfig(output.config, source.config, source.label);
  const equal: string[] = [];
  for (const { path } of source.files.values()) {
    if (path === "config.json") continue;
    const same = output.files.has(path) &&
      firstDifference(await output.readFile(path), await source.readFile(path)) === undefined;
    if (!same) {
      throw new CheckpointError(
        `Cannot accept ${quote(path)}: it is ${
          output.files.has(path) ? "not the source's" : "missing"
        }.`,
        { file: path },
      );
    }
    equal.push(path);
  }
  return equal;
}

/** What quantization changes in a config; a head is untied where it is quantized by itself. */
const CHANGED = ["quantization_config", "dtype", "torch_dtype", "tie_word_embeddings"];

/** @throws {CheckpointError} a value differs that quantization does not change. */
function compareConfig(
  output: TensorSource["config"],
  source: TensorSource["config"],
  label: string,
): void {
  for (const [key, value] of Object.entries(source)) {
    const other = output[key];
    if (CHANGED.includes(key) || JSON.stringify(other) === JSON.stringify(value)) continue;
    if (key.endsWith("_config") && isObject(value) && isObject(other)) {
      compareConfig(other, value, label);
      continue;
    }
    throw new CheckpointError(
      `Cannot accept config.json: its "${key}" differs from that of ${quote(label)}.`,
      { file: "config.json" },
    );
  }
}
