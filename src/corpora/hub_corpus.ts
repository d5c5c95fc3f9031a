/**
 * Texts and chats from datasets of the Hub, for calibration and evaluation. Refused: datasets that
 * only a program can read.
 */
import { HubError, quote, RequestError } from "../errors.ts";
import type { HubClient, HubFile } from "../hub/client.ts";
import { formatRepoSpec, type RepoSpec } from "../hub/repo_spec.ts";
import type { Reporter } from "../report.ts";
import { type Corpus, gatherRows } from "./corpus.ts";
import { findSplit } from "./dataset_files.ts";
import { type DatasetSpec, parseDatasetSpec, type Purpose } from "./dataset_spec.ts";
import type { Fail } from "./messages.ts";
import { hubRowFile, readRows, type Row } from "./rows.ts";

/** Where the Hub keeps what it converted every dataset to. */
const CONVERTED = "refs/convert/parquet";

/**
 * Characters of text that are taken of a dataset without a protocol: about four million tokens,
 * minutes of tokenizing.
 */
const ENOUGH = 16 * 2 ** 20;

/** How a text is read. */
export interface HubCorpusOptions {
  readonly client: HubClient;
  readonly purpose: Purpose;
  readonly report?: Reporter;
}

/**
 * The corpus that `spec` names on the Hub; see `dataset_spec.ts` for how it is written.
 *
 * @throws {RequestError} it names nothing, or what it names holds no texts and no chats.
 * @throws {HubError} the Hub does not give it.
 */
export async function readHubCorpus(
  spec: string,
  { client, purpose, report = () => {} }: HubCorpusOptions,
): Promise<Corpus> {
  const fail: Fail = (why, cause) => {
    throw new RequestError(`Cannot use ${quote(spec)} as a text for ${purpose}: ${why}.`, {
      cause,
    });
  };
  const dataset = parseDatasetSpec(spec, purpose);
  if (!dataset) {
    return fail(
      "it is no name of a dataset on the Hub; write org/dataset:config:split:column, or " +
        "org/dataset/path/to/file.jsonl",
    );
  }
  const files = await findFiles(dataset, { client, purpose, fail });
  const { column, joiner, rows: most = Infinity } = dataset;
  const options = { column, advice: "name one after a third colon", fail };
  let [count, length] = [0, 0];
  async function* rows(): AsyncGenerator<Row, void, undefined> {
    for (const file of files) {
      for await (const row of readRows(hubRowFile(file, client), options)) {
        yield row;
        count++;
        length += lengthOf(row) + joiner.length;
        if (count >= most) return;
        if (length < ENOUGH) continue;
        report({
          type: "warning",
          code: "corpus-cut",
          message: `Of ${quote(spec)} the first ${count} rows are used, ${length} characters.`,
        });
        return;
      }
    }
  }
  const corpus = await gatherRows(rows(), { joiner, name: quote(spec), fail });
  return count === 0 ? fail("it has no rows") : corpus;
}

/** Characters of a row, of a chat about. */
function lengthOf({ content }: Row): number {
  return typeof content === "string" ? content.length : JSON.stringify(content).length;
}

async function findFiles(
  { repo, file, config, split }: DatasetSpec,
  { client, purpose, fail }: { client: HubClient; purpose: Purpose; fail: Fail },
): Promise<HubFile[]> {
  const files = await list(client, repo);
  if (file !== undefined) {
    const found = files.find(({ path }) => path === file);
    return found
      ? [found]
      : fail(`the dataset ${quote(formatRepoSpec(repo))} has no file ${quote(file)}`);
  }
  const found = findSplit(files, { config, split, purpose });
  if (typeof found !== "string") return found;
  if (repo.revision !== undefined) return fail(found);
  let converted: HubFile[];
  try {
    converted = await list(client, { ...repo, revision: CONVERTED });
  } catch (cause) {
    if (!(cause instanceof HubError && cause.kind === "missing-revision")) throw cause;
    return fail(found, cause);
  }
  const again = findSplit(converted, { config, split, purpose });
  return typeof again === "string" ? fail(again) : again;
}

async function list(client: HubClient, repo: RepoSpec): Promise<HubFile[]> {
  return await client.files(await client.pin(repo));
}
