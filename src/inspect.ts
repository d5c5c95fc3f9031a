/** What a checkpoint is, from its headers and config.json alone. Reads no tensor. */
import { familyOf } from "./families/mod.ts";
import { FORMATS } from "./formats/mod.ts";
import type { TensorSource } from "./source.ts";
import { byteLength, type DType, elementCount, type TensorInfo } from "./tensor.ts";
import { quantizedBy } from "./plan/usable.ts";

/** Tensors of one dtype, taken together. */
export interface DTypeShare {
  readonly dtype: DType;
  readonly tensors: number;
  /** Elements; codes that are packed into larger words count as the words. */
  readonly elements: number;
  readonly bytes: number;
}

/** One file of a checkpoint. */
export interface InspectedFile {
  readonly path: string;
  /** Tensors in it; 0 for companion files. */
  readonly tensors: number;
  /** Bytes of its tensors, or of the file itself if it has none. */
  readonly bytes: number;
}

/** How a checkpoint says it is quantized. */
export interface InspectedQuantization {
  /**
   * `quantization_config.quant_method` as it is written, or what the names of the tensors betray.
   */
  readonly method: string;
  /** The format of Sluice that reads it, if one does. */
  readonly format: string | undefined;
  readonly section: Readonly<Record<string, unknown>>;
}

/** What is known of a checkpoint. */
export interface Inspection {
  readonly label: string;
  readonly id: string;
  readonly container: "safetensors";
  /** `model_type` of config.json. */
  readonly modelType: string | undefined;
  /** Whether Sluice runs models of this type, which evaluation needs; it quantizes others too. */
  readonly runs: boolean;
  readonly dtypes: readonly DTypeShare[];
  readonly elements: number;
  readonly bytes: number;
  readonly quantization: InspectedQuantization | undefined;
  readonly files: readonly InspectedFile[];
  readonly tensors: readonly (TensorInfo & { readonly file: string; readonly bytes: number })[];
}

/** Inspect an open checkpoint. */
export function inspect(
  source: Pick<
    TensorSource,
    "label" | "id" | "tensors" | "fileOf" | "files" | "config" | "configText"
  >,
): Inspection {
  const tensors = [...source.tensors.values()].map(({ name, dtype, shape }) => ({
    name,
    dtype,
    shape,
    file: source.fileOf.get(name)!,
    bytes: byteLength({ dtype, shape }),
  }));
  const total = (list: readonly { readonly bytes: number }[]) =>
    list.reduce((n, { bytes }) => n + bytes, 0);
  const elements = (list: readonly TensorInfo[]) =>
    list.reduce((n, { shape }) => n + elementCount(shape), 0);
  const byDType = Map.groupBy(tensors, ({ dtype }) => dtype);
  const byFile = Map.groupBy(tensors, ({ file }) => file);
  const type = source.config.model_type;
  return {
    label: source.label,
    id: source.id,
    container: "safetensors",
    modelType: typeof type === "string" ? type : undefined,
    runs: familyOf(source.config) !== undefined,
    dtypes: [...byDType].map(([dtype, list]) => ({
      dtype,
      tensors: list.length,
      elements: elements(list),
      bytes: total(list),
    })).sort((a, b) => b.bytes - a.bytes),
    elements: elements(tensors),
    bytes: total(tensors),
    quantization: quantizationOf(source),
    files: [
      ...[...byFile].map(([path, list]) => ({ path, tensors: list.length, bytes: total(list) })),
      ...(source.configText === undefined ? [] : [{
        path: "config.json",
        tensors: 0,
        bytes: new TextEncoder().encode(source.configText).length,
      }]),
      ...[...source.files.values()].map(({ path, size }) => ({ path, tensors: 0, bytes: size })),
    ],
    tensors,
  };
}

function quantizationOf(
  source: Pick<TensorSource, "config" | "tensors">,
): InspectedQuantization | undefined {
  const method = quantizedBy(source);
  if (method === undefined) return undefined;
  const section = source.config.quantization_config;
  return {
    method,
    format: FORMATS.find(({ quantMethod }) => quantMethod === method)?.name,
    section: typeof section === "object" && section !== null
      ? section as Readonly<Record<string, unknown>>
      : {},
  };
}
