/**
 * How a text is named on the Hub: `wikitext2` and `c4`, which mean what papers mean by them;
 * `org/dataset[@revision][:config][:split][:column]`; or a file of a dataset,
 * `org/dataset[@revision]/path/to/file.jsonl`. Pure.
 */
import { parseRepoSpec, type RepoSpec, withoutAddress } from "../hub/repo_spec.ts";

/** What a text is for: it decides the split. */
export type Purpose = "evaluation" | "calibration";

/** A text of the Hub. */
export interface DatasetSpec {
  readonly repo: RepoSpec;
  /** One file of it; otherwise the files of a configuration and split. */
  readonly file: string | undefined;
  readonly config: string | undefined;
  readonly split: string | undefined;
  /** Where the text of a row is. */
  readonly column: string;
  /** What stands between two rows. */
  readonly joiner: string;
  /** Rows that are taken, from the first; all when undefined. */
  readonly rows: number | undefined;
}

/**
 * The texts of papers (GPTQ's `datautils.py`, whose protocol AWQ, OmniQuant and others kept).
 *
 * - `wikitext2`: wikitext-2-raw-v1, rows joined by an empty line, empty rows too; the test split,
 *   for calibration the training split.
 * - `c4`: the first 1100 documents of the first file of the validation set, joined by a space
 *   (`c4_new`); for calibration of the training set.
 */
function named(name: string, purpose: Purpose): DatasetSpec | undefined {
  const evaluated = purpose === "evaluation";
  const repo = (id: string): RepoSpec => ({ kind: "dataset", id, revision: undefined });
  switch (name) {
    case "wikitext2":
      return {
        repo: repo("Salesforce/wikitext"),
        file: undefined,
        config: "wikitext-2-raw-v1",
        split: evaluated ? "test" : "train",
        column: "text",
        joiner: "\n\n",
        rows: undefined,
      };
    case "c4":
      return {
        repo: repo("allenai/c4"),
        file: `en/c4-${evaluated ? "validation.00000-of-00008" : "train.00000-of-01024"}.json.gz`,
        config: undefined,
        split: undefined,
        column: "text",
        joiner: " ",
        rows: 1100,
      };
  }
  return undefined;
}

/** What looks like a file of this machine, and not like a dataset. */
const FILE = /\.(?:txt|md|jsonl?|ndjson|[ct]sv|parquet|gz)$/i;

/** Whether a text of this name comes from the Hub before any file of this machine is looked for. */
export function isNamedCorpus(spec: string): boolean {
  return named(spec, "evaluation") !== undefined;
}

/** What `spec` names on the Hub, or undefined when it can name nothing there. */
export function parseDatasetSpec(spec: string, purpose: Purpose): DatasetSpec | undefined {
  const known = named(spec, purpose);
  if (known) return known;
  const common = { joiner: "\n\n", rows: undefined };
  const plain = withoutAddress(spec, "dataset");
  const [, id, revision, file] = /^([^/@:]+\/[^/@:]+)(?:@([^/:]+))?\/(.+)$/.exec(plain) ?? [];
  if (file !== undefined && FILE.test(file)) {
    const repo = parseRepoSpec(revision === undefined ? id! : `${id}@${revision}`, "dataset");
    return repo &&
      { ...common, repo, file, config: undefined, split: undefined, column: "text" };
  }
  const [place = "", config, split, column, ...rest] = plain.split(":");
  const repo = place.includes("/") && !FILE.test(place)
    ? parseRepoSpec(place, "dataset")
    : undefined;
  if (!repo || rest.length > 0) return undefined;
  return {
    ...common,
    repo,
    file: undefined,
    config: config || undefined,
    split: split || undefined,
    column: column || "text",
  };
}
