/**
 * What a program reads of `--json`: one spelling of keys, snake_case, the same keys every time
 * (null where one does not apply), and numbers that JSON has no word for as text. README.md lists
 * them. Pure.
 */
import type { RunRecord } from "../report/record.ts";
import type { Event, TensorReport } from "../report.ts";

/** A value of others that is printed as it is, keys and all: a section of a config.json. */
export class Verbatim {
  readonly value: unknown;
  constructor(value: unknown) {
    this.value = value;
  }
}

/** A value as one line of JSON. */
export function jsonLine(value: unknown): string {
  return `${JSON.stringify(plainOf(value))}\n`;
}

/** A value as JSON that a person can read too. */
export function jsonText(value: unknown): string {
  return `${JSON.stringify(plainOf(value), null, 2)}\n`;
}

/**
 * The value as it is printed: `bitsPerWeight` and `group-size` as `bits_per_weight` and
 * `group_size`, infinity as `"Infinity"`.
 */
function plainOf(value: unknown): unknown {
  if (value === undefined) return null;
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (value instanceof Verbatim) return value.value;
  if (Array.isArray(value)) return value.map(plainOf);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [snakeCase(key), plainOf(inner)]),
  );
}

function snakeCase(key: string): string {
  return key.replaceAll("-", "_").replace(/(?<=[a-z])(?=[A-Z])/g, "_").toLowerCase();
}

/** An event with all its keys. */
export function eventDocument(event: Event): Readonly<Record<string, unknown>> {
  switch (event.type) {
    case "start":
      return { ...event, windows: event.windows, outputs: event.outputs };
    case "quantized":
      return { ...event, tensor: tensorDocument(event.tensor), output: event.output };
    case "copied":
    case "warning":
    case "committed":
    case "scored":
      return { ...event, output: event.output };
    default:
      return event;
  }
}

/** How a weight fared, with the keys that a report has for it. */
export function tensorDocument(
  { name, scheme, bitsPerWeight, method, metrics, calibration }: TensorReport,
): Readonly<Record<string, unknown>> {
  return {
    name,
    scheme,
    bitsPerWeight,
    method,
    metrics,
    fallback: calibration?.fallback,
    tokens: calibration?.tokens,
    damping: calibration?.damping,
    strength: calibration?.strength,
    inputScale: calibration?.inputScale,
    loss: calibration?.loss,
    expectedLoss: calibration?.expectedLoss,
    lossBound: calibration?.lossBound,
    outputError: calibration?.outputError,
    blockErrorBefore: calibration?.tuning?.before,
    blockError: calibration?.tuning?.after,
  };
}

/** A record as its file has it. */
export function recordDocument(record: RunRecord): Readonly<Record<string, unknown>> {
  const { model } = record;
  const card = model.card && { ...model.card, gate: new Verbatim(model.card.gate) };
  return { ...record, model: { ...model, card }, recipe: new Verbatim(record.recipe) };
}
