/**
 * What a model is run on: a text, its tokens, their windows.
 * Refused: chat messages (no template is applied yet), checkpoints without a tokenizer.json, texts shorter than one window.
 */
import { fileURLToPath } from "node:url";
import { Tokenizer } from "@huggingface/tokenizers";
import { isNamedCorpus, parseDatasetSpec } from "./corpora/dataset_spec.ts";
import { readHubCorpus } from "./corpora/hub_corpus.ts";
import { type Fail, rowText } from "./corpora/rows.ts";
import { CheckpointError, quote, RequestError, UnsupportedError } from "./errors.ts";
import type { HubClient } from "./hub/client.ts";
import type { Disk } from "./io/disk.ts";
import { draw, MAX_SEED } from "./random.ts";
import type { Reporter } from "./report.ts";
import type { TensorSource } from "./source.ts";
import { SAMPLE_CALIBRATION, SAMPLE_VALIDATION } from "./sources/sample.ts";
import { isObject } from "./json.ts";

/** Bytes of the largest text that is read: at a megabyte or so per second, tokenizing it takes minutes. */
const LARGEST_CORPUS = 128 * 2 ** 20;

/** How a text is read. */
export interface CorpusOptions {
  readonly disk: Disk;
  readonly purpose: "evaluation" | "calibration";
  /** Where datasets come from; without it only files are read. */
  readonly hub?: HubClient;
  readonly report?: Reporter;
}

/**
 * The text that `spec` names: `sample` (the embedded validation text, or calibration text), `wikitext2` or `c4` from the Hub, a `.jsonl` file
 * with a `text` in every line (joined by an empty line, as the GPTQ protocol joins wikitext), any other file as it is, or a dataset of the Hub
 * where there is no file of that name (`corpora/dataset_spec.ts`).
 *
 * @throws {RequestError} no such file, not UTF-8, too large, or lines without a text.
 * @throws {HubError} the Hub does not give the dataset.
 */
export async function readCorpus(
  spec: string,
  { disk, purpose, hub, report }: CorpusOptions,
): Promise<string> {
  const path = spec === "sample"
    ? fileURLToPath(purpose === "evaluation" ? SAMPLE_VALIDATION : SAMPLE_CALIBRATION)
    : spec;
  const fail: Fail = (why, cause) => {
    throw new RequestError(
      `Cannot use ${quote(spec)} as a text for ${purpose}: ${why}.`,
      { cause },
    );
  };
  if (isNamedCorpus(spec) || hub && spec !== "sample" && await isOnHub(spec, disk)) {
    if (!hub) return fail("it is on the Hub, which was not given");
    return await readHubCorpus(spec, { client: hub, purpose, ...(report ? { report } : {}) });
  }
  const found = await disk.stat(path);
  if (found?.kind !== "file") {
    return fail(found ? `it is a ${found.kind}, expected a text file` : "there is no such file");
  }
  if (found.size > LARGEST_CORPUS) {
    return fail(`it has ${found.size} bytes, at most ${LARGEST_CORPUS} are read; cut it`);
  }
  await using reader = await disk.open(path);
  const bytes = await reader.read(0, found.size);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    return fail("it is not UTF-8 text", cause);
  }
  return path.endsWith(".jsonl") ? textOfLines(text, fail) : text;
}

/** Whether a text is a dataset's: its name is one, and there is no file of that name that could be meant. */
async function isOnHub(spec: string, disk: Disk): Promise<boolean> {
  if (!parseDatasetSpec(spec, "evaluation")) return false;
  return !await disk.mayRead(spec) || !await disk.stat(spec);
}

/** The texts of JSON lines, joined by an empty line. */
function textOfLines(lines: string, fail: Fail): string {
  const texts: string[] = [];
  lines.split("\n").forEach((line, i) => {
    if (line.trim() === "") return;
    texts.push(rowText(line, { column: "text", fail, where: `line ${i + 1}` }));
  });
  return texts.join("\n\n");
}

/**
 * The whole text as one stream of tokens, by the checkpoint's own `tokenizer.json`. Special tokens are added as the tokenizer's
 * post-processor does (Llama: one BOS at the start), which is what `tokenizer(text)` gives in transformers and the GPTQ protocol uses.
 *
 * @throws {UnsupportedError} the checkpoint has no tokenizer.json.
 * @throws {CheckpointError} the tokenizer's files are broken, or give tokens without a number.
 */
export async function tokenize(
  source: Pick<TensorSource, "files" | "readFile" | "label">,
  text: string,
): Promise<Uint32Array<ArrayBuffer>> {
  const file = "tokenizer.json";
  if (!source.files.has(file)) {
    throw new UnsupportedError(
      `Cannot tokenize for ${
        quote(source.label)
      }: it has no tokenizer.json. Save the model's tokenizer there with transformers (\`AutoTokenizer.from_pretrained(…).save_pretrained(…)\`).`,
      { what: file, reason: "other tokenizer files are not read" },
    );
  }
  const definition = await readJson(source, file);
  const settings = source.files.has("tokenizer_config.json")
    ? await readJson(source, "tokenizer_config.json")
    : {};
  let ids: number[];
  try {
    // Truncation and padding are settings of a past call that was saved; transformers resets them too.
    const tokenizer = new Tokenizer({ ...definition, truncation: null, padding: null }, settings);
    ids = tokenizer.encode(text).ids;
  } catch (cause) {
    // The library knows no error classes of its own, so whatever it raises is about these files.
    throw new CheckpointError(
      `Cannot use ${quote(source.label)}'s tokenizer.json: ${
        cause instanceof Error ? cause.message : String(cause)
      }.`,
      { file, cause },
    );
  }
  const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0);
  if (wrong !== -1) {
    throw new CheckpointError(
      `Cannot use ${
        quote(source.label)
      }'s tokenizer.json: it gives the text's token ${wrong} the number ${ids[wrong]}.`,
      { file },
    );
  }
  return Uint32Array.from(ids);
}

async function readJson(
  source: Pick<TensorSource, "readFile">,
  file: string,
): Promise<Record<string, unknown>> {
  const bytes = await source.readFile(file);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    if (!(cause instanceof SyntaxError || cause instanceof TypeError)) throw cause;
    throw new CheckpointError(`Cannot read ${file}: it is not JSON.`, { file, cause });
  }
  if (!isObject(value)) {
    throw new CheckpointError(`Cannot read ${file}: it holds no JSON object.`, { file });
  }
  return value;
}

/**
 * Windows of `seqLen` tokens that do not overlap, from the start of the stream; the tail is dropped (GPTQ protocol). Of more windows than
 * asked for, the first are taken, or with a seed any of them, in the order of the text.
 *
 * @throws {RequestError} the stream is shorter than one window, or the window longer than the model allows.
 */
export function makeWindows(
  tokens: Uint32Array,
  { seqLen, maxWindows = Infinity, maxPositions = Infinity, seed }: {
    readonly seqLen: number;
    readonly maxWindows?: number;
    /** `Model.maxPositions`. */
    readonly maxPositions?: number;
    /** Draws the windows, the same ones each time: a whole number below 2³². */
    readonly seed?: number;
  },
): Uint32Array<ArrayBuffer>[] {
  const fail = (why: string): never => {
    throw new RequestError(`Cannot make windows of ${seqLen} tokens: ${why}.`);
  };
  if (!Number.isInteger(seqLen) || seqLen < 2) {
    return fail("a window has a whole number of tokens, at least 2");
  }
  if (!(maxWindows >= 1)) return fail(`${maxWindows} windows were asked for, expected at least 1`);
  if (seqLen > maxPositions) {
    return fail(`the model was made for ${maxPositions} positions; choose a shorter window`);
  }
  if (seed !== undefined && !(Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED)) {
    return fail(`the seed is ${seed}, expected a whole number from 0 to ${MAX_SEED}`);
  }
  const total = Math.floor(tokens.length / seqLen);
  if (total === 0) {
    return fail(`the text has only ${tokens.length}; use a longer text or a shorter window`);
  }
  const count = Math.min(Math.floor(maxWindows), total);
  const places = seed === undefined
    ? Array.from({ length: count }, (_, i) => i)
    : draw(count, { total, seed });
  return places.map((i) => new Uint32Array(tokens.subarray(i * seqLen, (i + 1) * seqLen)));
}
