/**
 * Reading the front matter of a base model's card, which is anybody's text: what cannot be read is
 * left out, and nothing is thrown.
 */
import defer * as yaml from "yaml";

/** What of a base model's card travels along. Absent: the card does not say it. */
export interface SourceCard {
  /** The Hub's licence id: `apache-2.0`, `other`, …; more than one is possible. */
  readonly license?: string | readonly string[];
  readonly licenseName?: string;
  readonly licenseLink?: string;
  /** ISO 639 codes. */
  readonly language?: string | readonly string[];
  readonly pipelineTag?: string;
  readonly tags: readonly string[];
  /** `extra_gated_*` fields as they are: what a reader must agree to before the files are shown. */
  readonly gate: Readonly<Record<string, Plain>>;
}

/** A value of YAML without dates, tags and aliases. */
export type Plain = string | number | boolean | null | readonly Plain[] | {
  readonly [key: string]: Plain;
};

/**
 * Characters of front matter that are read; the longest on the Hub (lists of evaluation results)
 * are shorter.
 */
const MAX_FRONT_MATTER = 2 ** 20;

/**
 * What a card's front matter says. Odd YAML, other types than expected, no front matter at all:
 * what is missing or cannot be read is left out, and nothing is thrown.
 */
export function readSourceCard(text: string): SourceCard {
  const nothing: SourceCard = { tags: [], gate: {} };
  const lines = text.slice(0, MAX_FRONT_MATTER).replace(/^\ufeff/, "").split(/\r?\n/);
  const end = lines.findIndex((line, i) => i > 0 && /^---\s*$/.test(line));
  if (!/^---\s*$/.test(lines[0] ?? "") || end < 0) return nothing;
  // Reports faults as a list, bombs of brackets and aliases too; the nodes it could make of the
  // rest are there.
  const { contents } = yaml.parseDocument(lines.slice(1, end).join("\n"), {
    uniqueKeys: false,
    logLevel: "silent",
  });
  const fields = plainOf(contents, 0);
  if (typeof fields !== "object" || fields === null || !isRecord(fields)) return nothing;
  const license = words(fields.license);
  const language = words(fields.language);
  const licenseName = word(fields.license_name);
  const licenseLink = word(fields.license_link);
  const pipelineTag = word(fields.pipeline_tag);
  const tags = words(fields.tags) ?? [];
  return {
    ...(license === undefined ? {} : { license }),
    ...(licenseName === undefined ? {} : { licenseName }),
    ...(licenseLink === undefined ? {} : { licenseLink }),
    ...(language === undefined ? {} : { language }),
    ...(pipelineTag === undefined ? {} : { pipelineTag }),
    tags: typeof tags === "string" ? [tags] : tags,
    gate: Object.fromEntries(
      Object.entries(fields).filter(([key]) => key.startsWith("extra_gated_")),
    ),
  };
}

/** A node without aliases, tags and anything deeper than a card needs. */
function plainOf(node: unknown, depth: number): Plain {
  if (yaml.isScalar(node)) {
    const { value, source } = node;
    if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") {
      return value;
    }
    return value === null || source === undefined ? null : source;
  }
  if (depth > 6) return null;
  if (yaml.isSeq(node)) return node.items.map((item) => plainOf(item, depth + 1));
  if (!yaml.isMap(node)) return null;
  return Object.fromEntries(
    node.items.flatMap(({ key, value }) =>
      yaml.isScalar(key) ? [[String(key.value), plainOf(value, depth + 1)] as const] : []
    ),
  );
}

function isRecord(value: object): value is Record<string, Plain> {
  return !Array.isArray(value);
}

function word(value: Plain | undefined): string | undefined {
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return typeof value === "string" && value.trim() !== "" ? value.trim() : undefined;
}

function words(value: Plain | undefined): string | string[] | undefined {
  if (!Array.isArray(value)) return word(value);
  const found = value.map(word).filter((one) => one !== undefined);
  return found.length > 0 ? found : undefined;
}
