/**
 * Values of a `config.json`, read one by one with their type and range checked. A config comes from strangers: a hidden size of
 * 1e18 or a text where a number belongs must end in a sentence, before anything is allocated.
 */
import { CheckpointError } from "../errors.ts";

/** A parsed `config.json`, or an object inside it. */
export type Config = Readonly<Record<string, unknown>>;

/** What a number must be, and what stands in for one that is missing or null. */
interface NumberRule {
  readonly min: number;
  readonly max: number;
  readonly fallback?: number;
}

/** Refuse a value: `"hidden_size" is "many", expected …`. */
function refuse(key: string, value: unknown, want: string): never {
  const found = value === undefined ? "is missing" : `is ${JSON.stringify(value)?.slice(0, 80)}`;
  throw new CheckpointError(
    `Cannot use config.json: "${key}" ${found}, expected ${want}. Check that the file belongs to this checkpoint.`,
    { file: "config.json" },
  );
}

/** A finite number in `[min, max]`. @throws {CheckpointError} it is anything else, or missing without a fallback. */
export function readNumber(config: Config, key: string, rule: NumberRule): number {
  const value = config[key] ?? rule.fallback;
  if (typeof value !== "number" || !(value >= rule.min && value <= rule.max)) {
    refuse(key, config[key], `a number from ${rule.min} to ${rule.max}`);
  }
  return value;
}

/** A whole number in `[min, max]`. @throws {CheckpointError} it is anything else, or missing without a fallback. */
export function readInteger(config: Config, key: string, rule: NumberRule): number {
  const value = config[key] ?? rule.fallback;
  if (
    typeof value !== "number" || !Number.isInteger(value) || value < rule.min || value > rule.max
  ) {
    refuse(key, config[key], `a whole number from ${rule.min} to ${rule.max}`);
  }
  return value;
}

/** True or false. @throws {CheckpointError} */
export function readBoolean(config: Config, key: string, fallback: boolean): boolean {
  const value = config[key] ?? fallback;
  return typeof value === "boolean" ? value : refuse(key, value, "true or false");
}

/** Text. @throws {CheckpointError} */
export function readString(config: Config, key: string, fallback?: string): string {
  const value = config[key] ?? fallback;
  return typeof value === "string" ? value : refuse(key, value, "text");
}

/** An object, or undefined when it is missing or null. @throws {CheckpointError} */
export function readObject(config: Config, key: string): Config | undefined {
  const value = config[key] ?? undefined;
  if (value === undefined) return undefined;
  return typeof value === "object" && !Array.isArray(value)
    ? value as Config
    : refuse(key, value, "an object or null");
}
