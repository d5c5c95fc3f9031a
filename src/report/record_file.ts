/**
 * Reading `sluice.json`, which is anybody's text by the time it is read: what is not as {@linkcode
 * RunRecord} has it is refused.
 */
import { CheckpointError } from "../errors.ts";
import type { Score } from "../evaluator.ts";
import { isObject } from "../json.ts";
import { RECORD_FILE } from "../io/names.ts";
import type { RunRecord } from "./record.ts";
import type { TensorSource } from "../source.ts";

/** Whether a value is as it must be. */
type Check = (value: unknown) => boolean;

const isText: Check = (value) => typeof value === "string";
const isNumber: Check = (value) => typeof value === "number";
const isCount: Check = (value) => Number.isSafeInteger(value) && Number(value) >= 0;
/** Above 0 and below 1. */
const isShare: Check = (value) => isNumber(value) && Number(value) > 0 && Number(value) < 1;
const isBoolean: Check = (value) => typeof value === "boolean";
/** Infinities and NaN are text. */
const isNumberOrWord: Check = (value) =>
  isNumber(value) || isText(value) && ["Infinity", "-Infinity", "NaN"].includes(String(value));
const orNull = (check: Check): Check => (value) => value === null || check(value);
const listOf = (check: Check): Check => (value) => Array.isArray(value) && value.every(check);
const mapOf = (check: Check): Check => (value) =>
  isObject(value) && Object.values(value).every(check);
/** Other keys may be there: later versions of Sluice add some. */
const withKeys = (checks: Readonly<Record<string, Check>>): Check => (value) =>
  isObject(value) && Object.entries(checks).every(([key, check]) => check(value[key]));

const counted = listOf(withKeys({ name: isText, weights: isNumber }));
const isTextOrTexts: Check = (value) => isText(value) || listOf(isText)(value);
const windowKeys = withKeys({
  corpus: orNull(isText),
  windows: isNumber,
  available: orNull(isNumber),
  seq_len: isNumber,
  tokens: isNumber,
  seed: orNull(isNumber),
  sha256: orNull(isText),
});
const windows = orNull(windowKeys);
const certificate = orNull(withKeys({
  holds: isBoolean,
  limits: listOf(withKeys({
    quantity: (value) => value === "kl_divergence" || value === "perplexity_increase",
    bound: isNumber,
    measured: isNumberOrWord,
    limit: isNumberOrWord,
    holds: isBoolean,
  })),
  confidence: isShare,
  tries: (value) => isCount(value) && value !== 0,
  text: windowKeys,
  steering_windows: isCount,
}));

const use = withKeys({
  bytes: isNumber,
  operations: isNumber,
  memory_pj: isNumber,
  compute_pj: isNumber,
  tops_per_watt: isNumber,
});
const estimate = orNull(withKeys({
  table: isText,
  original: use,
  quantized: use,
  quality_kept: orNull(isNumber),
  efficiency: orNull(isNumber),
}));

/** Lists beside that of layers. */
const isKind: Check = (value) => {
  const errors = listOf(orNull(isNumber));
  const lists = { layers: listOf(isCount), bits: listOf(isNumber) };
  return withKeys({ kind: isText, ...lists, output_error: errors, weight_error: errors })(value) &&
    ["bits", "output_error", "weight_error"].every((key) =>
      lengthOf(value, key) === lengthOf(value, "layers")
    );
};
const lengthOf = (value: unknown, key: string) =>
  (value as Readonly<Record<string, readonly unknown[]>>)[key]!.length;
const along = orNull(withKeys({
  stream_error: orNull(listOf(orNull(isNumber))),
  kinds: listOf(isKind),
}));

/** What is looked at, key by key. */
const KEYS = {
  generator: isText,
  runtime: isText,
  command: orNull(isText),
  model: withKeys({
    name: isText,
    id: orNull(isText),
    type: orNull(isText),
    blocks: orNull(isNumber),
    card: orNull(withKeys({
      license: orNull(isTextOrTexts),
      license_name: orNull(isText),
      license_link: orNull(isText),
      language: orNull(isTextOrTexts),
      pipeline_tag: orNull(isText),
      conversational: isBoolean,
      gate: isObject,
    })),
  }),
  device: withKeys({ name: isText, description: isText }),
  recipe: isObject,
  format: isText,
  methods: counted,
  schemes: counted,
  calibrate_on: orNull(isText),
  propagate: orNull(isBoolean),
  outlier_quantile: orNull(isNumber),
  source_bytes: isNumber,
  total_bytes: isNumber,
  stored: withKeys({ tensors: isNumber, bytes: isNumber }),
  quantized_weights: isNumber,
  bits_per_weight: isNumber,
  calibration: windows,
  evaluation: windows,
  scores: mapOf(mapOf(isNumberOrWord)),
  along_depth: along,
  certificate,
  energy: estimate,
  fallbacks: listOf(isText),
  warnings: mapOf(isNumber),
} satisfies Readonly<Record<Exclude<keyof RunRecord, "version">, Check>>;

/** What records did not tell at first; those of before have none of it. */
const NONE_BEFORE = { energy: null, certificate: null, along_depth: null } satisfies Partial<
  RunRecord
>;

/**
 * The record in a text.
 *
 * @throws {CheckpointError} it is no record, or one of another version.
 */
export function parseRecord(text: string): RunRecord {
  const refuse = (found: string, cause?: unknown): never => {
    throw new CheckpointError(
      `Cannot read ${RECORD_FILE}: ${found}. It tells how the checkpoint was made; take it away ` +
        `to go on without.`,
      { file: RECORD_FILE, cause },
    );
  };
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    return refuse("it is not JSON", cause);
  }
  if (!isObject(value)) return refuse("it holds no object");
  if (value.version !== 1) {
    return refuse(`its version is ${JSON.stringify(value.version)}, and this Sluice reads 1`);
  }
  const given: Readonly<Record<string, unknown>> = { ...NONE_BEFORE, ...value };
  for (const [key, check] of Object.entries(KEYS)) {
    if (!check(given[key])) return refuse(`its "${key}" is not what a record has there`);
  }
  const record = given as unknown as RunRecord;
  const numbers = (score: Score) =>
    Object.fromEntries(Object.entries(score).map(([key, said]) => [key, Number(said)]));
  return {
    ...record,
    certificate: record.certificate && {
      ...record.certificate,
      limits: record.certificate.limits.map((limit) => ({
        ...limit,
        measured: Number(limit.measured),
        limit: Number(limit.limit),
      })),
    },
    scores: Object.fromEntries(
      Object.entries(record.scores).map(([name, score]) => [name, numbers(score)]),
    ),
  };
}

/**
 * The record that lies beside a checkpoint's weights, if there is one.
 *
 * @throws {CheckpointError} see `parseRecord`.
 */
export async function readRecord(
  source: Pick<TensorSource, "readSettings">,
): Promise<RunRecord | undefined> {
  const text = await source.readSettings?.(RECORD_FILE);
  return text === undefined ? undefined : parseRecord(text);
}
