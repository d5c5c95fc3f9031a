/** Looking at JSON of others, and writing one's own. */
import { CheckpointError } from "./errors.ts";
import type { TensorSource } from "./source.ts";

/** Whether a value is an object with keys. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A JSON text's object; undefined where it is none. */
export function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const root: unknown = JSON.parse(text);
    return isObject(root) ? root : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/**
 * For `JSON.stringify`: numbers that JSON has no word for as `"Infinity"`, `"-Infinity"` and
 * `"NaN"`.
 */
export function plainNumbers(_key: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

/**
 * The object in a checkpoint's JSON file.
 *
 * @throws {CheckpointError} it is not JSON, or holds no object.
 */
export async function readJsonFile(
  source: Pick<TensorSource, "readFile">,
  file: string,
): Promise<Record<string, unknown>> {
  const bytes = await source.readFile(file);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    if (!(cause instanceof SyntaxError || cause instanceof TypeError)) throw cause;
    throw new CheckpointError(`Cannot read ${file}: it is not JSON.`, { file, cause });
  }
  if (!isObject(value)) {
    throw new CheckpointError(`Cannot read ${file}: it holds no JSON object.`, { file });
  }
  return value;
}
