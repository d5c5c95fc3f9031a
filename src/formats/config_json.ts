/**
 * `config.json` rewritten without touching how its numbers are spelled: loaders tell `6.0` from `6`
 * and `1e-05` from `0.00001` by type, and JSON.stringify(6.0) is `6`. Uses the source text that
 * JSON.parse gives a reviver, and JSON.rawJSON (ES2026).
 */
import { CheckpointError } from "../errors.ts";
import { isObject } from "../json.ts";

/** The parts of JSON that TypeScript's library does not declare yet. */
interface SourceKeepingJson {
  rawJSON(text: string): object;
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
}

const json = JSON as unknown as SourceKeepingJson;

/** A number that JSON.stringify writes as `text`. */
export function numberAs(text: string): object {
  return json.rawJSON(text);
}

/** A float as Python's `json.dumps` writes it: `6.0`, `1e-05`, `2.6458332538604736`. */
export function pythonFloat(x: number): string {
  if (!Number.isFinite(x)) throw new RangeError(`JSON has no number ${x}`);
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    const [digits, exponent] = x.toExponential().split("e") as [string, string];
    const sign = exponent.startsWith("-") ? "-" : "+";
    return `${digits}e${sign}${exponent.slice(1).padStart(2, "0")}`;
  }
  const text = Object.is(x, -0) ? "-0" : String(x);
  return text.includes(".") ? text : `${text}.0`;
}

function parseKeepingNumbers(text: string): unknown {
  return json.parse(
    text,
    (_key, value, { source }) => typeof value === "number" ? numberAs(source!) : value,
  );
}

/** A dtype in the names that `config.json` uses. */
const DTYPE_NAMES: Readonly<Record<string, string>> = {
  bf16: "bfloat16",
  f16: "float16",
  f32: "float32",
};

/** `bfloat16` for `bf16`, as torch and `config.json` call it. */
export function torchName(dtype: string): string {
  return DTYPE_NAMES[dtype] ?? dtype;
}

/** Replace `dtype` and its older name where they stand, in sub-configs of multimodal models too. */
function replaceDType(config: Record<string, unknown>, dtype: string): boolean {
  let found = false;
  for (const [key, value] of Object.entries(config)) {
    if ((key === "dtype" || key === "torch_dtype") && typeof value === "string") {
      config[key] = dtype;
      found = true;
    } else if (key.endsWith("_config") && isObject(value)) {
      replaceDType(value, dtype);
    }
  }
  return found;
}

/**
 * `config.json` with another quantization section, or none; everything else keeps its order and
 * every number its spelling.
 *
 * @param configText The text as it was, or undefined when the checkpoint has none: then the result
 * holds the section alone.
 * @param section The JSON text of `quantization_config`; undefined removes it.
 * @param changes `dtype`: the weights' new dtype (`bf16`), written as `dtype` or `torch_dtype`,
 * whichever stands there; `untied`: the output head has weights of its own, of the text model in a
 * wrapper too.
 * @throws {CheckpointError} the text is not JSON, or not an object.
 */
export function spliceConfig(
  configText: string | undefined,
  section: string | undefined,
  changes: { readonly dtype?: string; readonly untied?: boolean } = {},
): string {
  const file = "config.json";
  let config: unknown;
  try {
    config = parseKeepingNumbers(configText ?? "{}");
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new CheckpointError(`Cannot read ${file}: it is not JSON (${cause.message})`, {
      file,
      cause,
    });
  }
  if (!isObject(config)) {
    throw new CheckpointError(`Cannot read ${file}: it must hold an object`, { file });
  }
  delete config.quantization_config;
  delete config.compression_config;
  if (changes.dtype !== undefined) {
    const dtype = torchName(changes.dtype);
    if (!replaceDType(config, dtype) && configText !== undefined) config.torch_dtype = dtype;
  }
  if (changes.untied) {
    config.tie_word_embeddings = false;
    if (isObject(config.text_config)) config.text_config.tie_word_embeddings = false;
  }
  if (section !== undefined) config.quantization_config = parseKeepingNumbers(section);
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** A file that holds the section alone, as loaders of GPTQ look for it beside config.json. */
export function sectionText(section: string): string {
  return `${JSON.stringify(parseKeepingNumbers(section), null, 2)}\n`;
}

/**
 * The quantization section of a parsed `config.json`, at the top or in the text model's part of it.
 */
export function quantizationSection(
  config: Readonly<Record<string, unknown>>,
): Record<string, unknown> | undefined {
  const { text_config: text } = config;
  const section = config.quantization_config ??
    (isObject(text) ? text.quantization_config : undefined);
  return isObject(section) ? section : undefined;
}
