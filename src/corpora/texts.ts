/**
 * What a model is run on: a text or chats, their tokens, windows of these. Refused: checkpoints
 * without a tokenizer.json, chats where there is no chat template, texts shorter than one window.
 */
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { readChatTemplate } from "./chat_template.ts";
import { type Corpus, gatherRows } from "./corpus.ts";
import { isNamedCorpus, parseDatasetSpec } from "./dataset_spec.ts";
import { readHubCorpus } from "./hub_corpus.ts";
import type { Fail } from "./messages.ts";
import { diskRowFile, LARGEST_TEXT, readRows } from "./rows.ts";
import { CheckpointError, quote, RequestError, UnsupportedError } from "../errors.ts";
import type { HubClient } from "../hub/client.ts";
import type { Disk } from "../io/disk.ts";
import { draw, MAX_SEED } from "./random.ts";
import type { Reporter } from "../report.ts";
import type { TensorSource } from "../source.ts";
import { size } from "../size.ts";
import { SAMPLE_CALIBRATION, SAMPLE_VALIDATION } from "../sources/sample.ts";
import { readJsonFile } from "../json.ts";

/** How a text is read. */
export interface CorpusOptions {
  readonly disk: Disk;
  readonly purpose: "evaluation" | "calibration";
  /** Where datasets come from; without it only files are read. */
  readonly hub?: HubClient;
  readonly report?: Reporter;
}

/**
 * The text or the chats that `spec` names: `sample` (the embedded validation text, or calibration
 * text), `wikitext2` or `c4` from the Hub, a file of rows (JSON, CSV, parquet: `corpora/rows.ts`)
 * with a `text` in each (joined by an empty line, as the GPTQ protocol joins wikitext) or with
 * chats (`messages`, or ShareGPT's `conversations`), any other file as it is, or a dataset of the
 * Hub where there is no file of that name (`corpora/dataset_spec.ts`).
 *
 * @throws {RequestError} no such file, not UTF-8, too large, or rows that are neither all texts nor
 * all chats.
 * @throws {HubError} the Hub does not give the dataset.
 */
export async function readCorpus(
  spec: string,
  { disk, purpose, hub, report }: CorpusOptions,
): Promise<Corpus> {
  const path = spec === "sample"
    ? fileURLToPath(purpose === "evaluation" ? SAMPLE_VALIDATION : SAMPLE_CALIBRATION)
    : spec;
  const fail: Fail = (why, cause) => {
    throw new RequestError(
      `Cannot use ${quote(spec)} as a text for ${purpose}: ${why}.`,
      { cause },
    );
  };
  if (await isDataset(spec, { disk, hub })) {
    if (!hub) return fail("it is on the Hub, which was not given");
    return await readHubCorpus(spec, { client: hub, purpose, ...(report ? { report } : {}) });
  }
  const found = await disk.stat(path);
  if (found?.kind !== "file") {
    return fail(found ? `it is a ${found.kind}, expected a text file` : "there is no such file");
  }
  if (found.size > LARGEST_TEXT) {
    return fail(
      `it has ${size(found.size)}, at most ${size(LARGEST_TEXT)} are read; cut it`,
    );
  }
  await using reader = await disk.open(path);
  const rows = readRows(diskRowFile(path, reader), {
    column: "text",
    advice: `rename one to "text"`,
    fail,
  });
  return await gatherRows(rows, { joiner: "\n\n", name: quote(spec), fail });
}

/**
 * Whether a text is a dataset's: its name is one, and there is no file of that name that could be
 * meant.
 */
async function isDataset(
  spec: string,
  { disk, hub }: { readonly disk: Disk; readonly hub: HubClient | undefined },
): Promise<boolean> {
  if (spec === "sample") return false;
  if (isNamedCorpus(spec)) return true;
  if (!hub || !parseDatasetSpec(spec, "evaluation")) return false;
  return !await disk.mayRead(spec) || !await disk.stat(spec);
}

/**
 * What to call a text where others read it: a dataset by its name, a file without its folder, which
 * is nobody's business.
 */
export async function corpusLabel(
  spec: string,
  { disk, hub }: Pick<CorpusOptions, "disk" | "hub">,
): Promise<string> {
  return await isDataset(spec, { disk, hub }) ? spec : basename(spec);
}

/**
 * A whole corpus as one stream of tokens, by the checkpoint's own `tokenizer.json`. A text gets
 * special tokens as the tokenizer's post-processor adds them (Llama: one BOS at the start), which
 * is what `tokenizer(text)` gives in transformers and the GPTQ protocol uses. Chats become texts by
 * the checkpoint's chat template, which writes their special tokens itself, and are tokenized one
 * by one, as `tokenizer.apply_chat_template(messages)` does.
 *
 * @throws {UnsupportedError} the checkpoint has no tokenizer.json, or no chat template and there
 * are chats.
 * @throws {CheckpointError} the files of the tokenizer or the template are broken, or give tokens
 * without a number.
 * @throws {RequestError} the chat template refuses a chat, or what it writes is too long.
 */
export async function tokenize(
  source: Pick<TensorSource, "files" | "readFile" | "label">,
  corpus: Corpus,
  { report }: { readonly report?: Reporter } = {},
): Promise<Uint32Array<ArrayBuffer>> {
  const encode = await readTokenizer(source);
  if (corpus.kind === "text") return encode(corpus.text, { special: true });
  const render = await readChatTemplate(source, report ? { report } : {});
  let length = 0;
  const texts = corpus.conversations.map((conversation) => {
    const text = render(conversation);
    length += text.length;
    if (length <= LARGEST_TEXT) return text;
    throw new RequestError(
      `Cannot use ${conversation.where}: up to it the chats have ${length} characters, at most ` +
        `${LARGEST_TEXT} are read; give fewer.`,
    );
  });
  const parts = texts.map((text) => encode(text, { special: false }));
  const tokens = new Uint32Array(parts.reduce((n, { length }) => n + length, 0));
  let at = 0;
  for (const part of parts) {
    tokens.set(part, at);
    at += part.length;
  }
  return tokens;
}

/** From a text to its tokens; `special`: with those that the tokenizer adds by itself. */
type Encode = (text: string, options: { special: boolean }) => Uint32Array<ArrayBuffer>;

async function readTokenizer(
  source: Pick<TensorSource, "files" | "readFile" | "label">,
): Promise<Encode> {
  const file = "tokenizer.json";
  if (!source.files.has(file)) {
    throw new UnsupportedError(
      `Cannot tokenize for ${
        quote(source.label)
      }: it has no tokenizer.json. Save the model's tokenizer there with transformers (\`AutoTokenizer.from_pretrained(…).save_pretrained(…)\`).`,
      { what: file, reason: "other tokenizer files are not read" },
    );
  }
  const { Tokenizer } = await import("@huggingface/tokenizers");
  const definition = await readJsonFile(source, file);
  const settings = source.files.has("tokenizer_config.json")
    ? await readJsonFile(source, "tokenizer_config.json")
    : {};
  const broken = (why: string, cause?: unknown): never => {
    throw new CheckpointError(`Cannot use ${quote(source.label)}'s tokenizer.json: ${why}.`, {
      file,
      cause,
    });
  };
  // The library knows no error classes of its own, so whatever it raises is about these files.
  const trying = <T>(use: () => T): T => {
    try {
      return use();
    } catch (cause) {
      return broken(cause instanceof Error ? cause.message : String(cause), cause);
    }
  };
  // Truncation and padding are settings of a past call that was saved; transformers resets them
  // too.
  const tokenizer = trying(() =>
    new Tokenizer({ ...definition, truncation: null, padding: null }, settings)
  );
  return (text, { special }) => {
    const { ids } = trying(() => tokenizer.encode(text, { add_special_tokens: special }));
    const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0);
    if (wrong !== -1) broken(`it gives the text's token ${wrong} the number ${ids[wrong]}`);
    return Uint32Array.from(ids);
  };
}

/**
 * Windows of `seqLen` tokens that do not overlap, from the start of the stream; the tail is dropped
 * (GPTQ protocol). Of more windows than asked for, the first are taken, or with a seed any of them,
 * in the order of the text.
 *
 * @throws {RequestError} the stream is shorter than one window, or the window longer than the model
 * allows.
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
