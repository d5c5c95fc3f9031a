/** The formats. To add one: a file here and a row below. */
import { RequestError } from "../errors.ts";
import type { Format, StoredWeight } from "../format.ts";
import type { TensorSource } from "../source.ts";
import { awq } from "./awq.ts";
import { bitsandbytes } from "./bitsandbytes.ts";
import { codebookFormat } from "./codebook.ts";
import { compressedTensors } from "./compressed_tensors.ts";
import { gptq } from "./gptq.ts";
import { plain } from "./plain.ts";
import { unstored } from "./unstored.ts";

/** Every format; those that may be chosen for a scheme first, in the order they are tried. */
export const FORMATS: readonly Format[] = [
  compressedTensors,
  bitsandbytes,
  plain,
  codebookFormat,
  gptq,
  awq,
  unstored,
];

/**
 * The format of this name.
 *
 * @throws {RequestError} there is none.
 */
export function formatNamed(name: string): Format {
  const format = FORMATS.find((format) => format.name === name);
  if (!format) {
    throw new RequestError(
      `Cannot use the format "${name}": the names are ${
        FORMATS.map(({ name }) => name).join(", ")
      }.`,
    );
  }
  return format;
}

/** A quantized checkpoint, understood. */
export interface Recognized {
  readonly format: Format;
  readonly weights: ReadonlyMap<string, StoredWeight>;
}

/**
 * The format a checkpoint is quantized in and its quantized weights by name; undefined when no
 * format recognizes it.
 */
export async function recognize(
  source: Pick<TensorSource, "tensors" | "config" | "read">,
): Promise<Recognized | undefined> {
  for (const format of FORMATS) {
    const weights = await format.recognize(source);
    if (weights) return { format, weights };
  }
  return undefined;
}
