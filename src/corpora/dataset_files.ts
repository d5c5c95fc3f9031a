/**
 * Which files of a dataset hold a configuration's split. Known are the Hub's own ways to lay out
 * data: `[config/]split-00000-of-00001.parquet` (also below `data/`), `config/split/0000.parquet`
 * (the branch that the Hub converts every dataset to), `split.jsonl`. Pure.
 */
import type { HubFile } from "../hub/client.ts";
import type { Purpose } from "./dataset_spec.ts";

const DATA = /\.(?:parquet|jsonl|ndjson|json|[ct]sv|txt)(?:\.gz)?$/i;
const NUMBERED = /^(.+?)[-.]\d{4,5}-of-\d{4,5}\./;
const CONVERTED = /^\d{4,}\.parquet$/;
const WORD = /(?:^|[-_.])(train|test|validation|valid|val|dev)(?:[-_.]|$)/i;
const NO_DATA = /^(?:dataset_infos|config|package|metadata|.*requirements.*)\.(?:json|txt)$/;

/** Which split is taken when none is asked for, the first that is there. */
const PREFERRED: Readonly<Record<Purpose, readonly string[]>> = {
  evaluation: ["test", "validation", "valid", "val", "dev", "train"],
  calibration: ["train", "validation", "valid", "val", "dev", "test"],
};

/** A file with what it holds. */
interface DataFile {
  readonly file: HubFile;
  /** `default` where there is only one. */
  readonly config: string;
  readonly split: string;
}

/** The files of a split, or why there are none: the end of a sentence. */
export function findSplit(
  files: readonly HubFile[],
  { config, split, purpose }: {
    readonly config: string | undefined;
    readonly split: string | undefined;
    readonly purpose: Purpose;
  },
): HubFile[] | string {
  const known = files.map(describe).filter((found) => found !== undefined);
  if (known.length === 0) return "it has no parquet, JSON, CSV or text file";
  const configs = [...new Set(known.map(({ config }) => config))];
  const chosen = config ?? (configs.length === 1 ? configs[0]! : "default");
  const of = known.filter((data) => data.config === chosen);
  if (of.length === 0) {
    return config === undefined
      ? `it has several configurations; name one after a colon: ${some(configs)}`
      : `it has no configuration "${config}", only ${some(configs)}`;
  }
  const splits = [...new Set(of.map(({ split }) => split))];
  const part = split ?? PREFERRED[purpose].find((name) => splits.includes(name)) ??
    (splits.length === 1 ? splits[0]! : undefined);
  const found = of.filter((data) => data.split === part).map(({ file }) => file);
  if (found.length === 0) {
    return split === undefined
      ? `it has several splits; name one after a second colon: ${some(splits)}`
      : `it has no split "${split}", only ${some(splits)}`;
  }
  // Parquet where there are several forms of the same rows.
  const parquet = found.filter(({ path }) => /\.parquet$/i.test(path));
  return (parquet.length > 0 ? parquet : found)
    .sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
}

function describe(file: HubFile): DataFile | undefined {
  const folders = file.path.split("/");
  const base = folders.pop()!;
  if (!DATA.test(base) || NO_DATA.test(base) || base.startsWith(".")) return undefined;
  const inFolder = (split: string) => ({
    file,
    split,
    config: folders.filter((name) => name !== "data").join("/") || "default",
  });
  if (CONVERTED.test(base) && folders.length > 0) return inFolder(folders.pop()!);
  const numbered = NUMBERED.exec(base)?.[1];
  const word = WORD.exec(base.replace(DATA, ""))?.[1]?.toLowerCase();
  return inFolder(word ?? numbered ?? "train");
}

function some(names: readonly string[]): string {
  const shown = names.toSorted().slice(0, 8).map((name) => JSON.stringify(name)).join(", ");
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}
