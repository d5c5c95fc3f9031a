/**
 * A checkpoint's own chat template: where it stands, and what it makes of a conversation. What
 * transformers' `apply_chat_template` gives without a generation prompt and without tools. Refused:
 * checkpoints without one, templates that fail, and chats that a template refuses.
 */
import type { Conversation } from "./corpus.ts";
import type { Message } from "./messages.ts";
import { CheckpointError, quote, RequestError, UnsupportedError } from "../errors.ts";
import type { Program } from "./jinja.ts";
import { isObject, readJsonFile } from "../json.ts";
import type { Reporter } from "../report.ts";
import type { TensorSource } from "../source.ts";

type Files = Pick<TensorSource, "files" | "readFile" | "label">;

/**
 * What a template may do: to begin with, for each message, and for each character of the
 * conversation; see `renderTemplate`.
 */
const WORK = { begin: 1e6, message: 1e4, character: 10 } as const;

const CONFIG = "tokenizer_config.json";

/** The tokens that templates may write by name; transformers gives those that the tokenizer has. */
const TOKENS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((name) => `${name}_token`);

/** From a conversation to its text, special tokens included. */
export type Render = (conversation: Conversation) => string;

/** How a template is read. */
export interface ChatTemplateOptions {
  /** Learns when the text depends on the day (`dated-template`). */
  readonly report?: Reporter;
  /** The day that templates write when they ask for it. */
  readonly today?: Date;
}

/**
 * The chat template of a checkpoint: `chat_template.jinja`, else `chat_template` in
 * tokenizer_config.json (of several the one named `default`), else chat_template.json.
 *
 * @returns what renders; it raises `RequestError` when the template refuses a conversation,
 * `CheckpointError` when it fails on it.
 * @throws {UnsupportedError} there is none.
 * @throws {CheckpointError} it cannot be read.
 */
export async function readChatTemplate(
  source: Files,
  { report = () => {}, today = new Date() }: ChatTemplateOptions = {},
): Promise<Render> {
  const { parseTemplate, Raised, renderTemplate } = await import("./jinja.ts");
  const label = quote(source.label);
  const { file, text } = await findTemplate(source);
  let program: Program;
  try {
    program = parseTemplate(text);
  } catch (cause) {
    // The library knows no error classes of its own, so whatever it raises is about this template.
    throw new CheckpointError(
      `Cannot use the chat template of ${label} (${file}): ${reason(cause)}.`,
      { file, cause },
    );
  }
  const tokens = await readTokens(source);
  let dated = false;
  const strftimeNow = (format: string) => {
    if (!dated) {
      const message = `The chat template of ${label} writes today's date into each chat: on ` +
        "another day the tokens are others.";
      report({ type: "warning", code: "dated-template", message });
    }
    dated = true;
    return strftime(format, today);
  };
  return ({ messages, where }) => {
    const variables = {
      ...tokens,
      messages: messages.map(withReasoning),
      tools: null,
      documents: null,
      add_generation_prompt: false,
    };
    try {
      return renderTemplate(program, {
        variables,
        work: WORK.begin + WORK.message * messages.length +
          WORK.character * JSON.stringify(messages).length,
        strftimeNow,
      });
    } catch (cause) {
      if (cause instanceof Raised) {
        throw new RequestError(
          `Cannot use ${where}: the chat template of ${label} refuses it: ${quote(cause.message)}.`,
          { cause },
        );
      }
      throw new CheckpointError(
        `Cannot use ${where}: the chat template of ${label} (${file}) fails on it: ` +
          `${reason(cause)}.`,
        { file, cause },
      );
    }
  };
}

/**
 * A message with its thoughts under the names that templates know; datasets have them under one of
 * three.
 */
function withReasoning(message: Message): Message {
  const thoughts = message.reasoning_content ?? message.thinking ?? message.reasoning;
  if (thoughts === undefined) return message;
  return { thinking: thoughts, ...message, reasoning_content: thoughts };
}

function reason(cause: unknown): string {
  return quote(cause instanceof Error ? cause.message : String(cause));
}

async function findTemplate(source: Files): Promise<{ file: string; text: string }> {
  const [plain, wrapped] = ["chat_template.jinja", "chat_template.json"];
  if (source.files.has(plain)) {
    const bytes = await source.readFile(plain);
    try {
      return { file: plain, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
    } catch (cause) {
      if (!(cause instanceof TypeError)) throw cause;
      throw new CheckpointError(`Cannot read ${plain}: it is not UTF-8 text.`, {
        file: plain,
        cause,
      });
    }
  }
  let found = `neither ${plain}, nor "chat_template" in ${CONFIG}`;
  for (const file of [CONFIG, wrapped]) {
    if (!source.files.has(file)) continue;
    const { chat_template: template } = await readJsonFile(source, file);
    if (template === undefined || template === null) continue;
    if (typeof template === "string") return { file, text: template };
    const named = Array.isArray(template) ? template.filter(isObject) : [];
    const usual = named.find(({ name }) => name === "default")?.template;
    if (typeof usual === "string") return { file, text: usual };
    const names = named.map(({ name }) => quote(String(name))).join(", ");
    found = names === ""
      ? `"chat_template" in ${file} is no text`
      : `${file} has templates named ${names}, and none named "default"`;
  }
  throw new UnsupportedError(
    `Cannot use chats with ${quote(source.label)}: it has no chat template (${found}). Give rows ` +
      `with a "text", or put the template of its chat model into ${plain}.`,
    { what: "chat template", reason: found },
  );
}

/**
 * The special tokens by name, as transformers gives them to a template: those that the tokenizer
 * has.
 */
async function readTokens(source: Files): Promise<Record<string, string>> {
  const tokens: Record<string, string> = {};
  for (const file of ["special_tokens_map.json", CONFIG]) {
    if (!source.files.has(file)) continue;
    const settings = await readJsonFile(source, file);
    for (const name of TOKENS) {
      const token = settings[name];
      const text = isObject(token) ? token.content : token;
      if (typeof text === "string") tokens[name] = text;
    }
  }
  return tokens;
}

/** A day in the notation of Python's `strftime`, in English, in this machine's time zone. */
function strftime(format: string, day: Date): string {
  const two = (number: number) => String(number).padStart(2, "0");
  const word = (options: Intl.DateTimeFormatOptions) => day.toLocaleDateString("en-US", options);
  const parts: Readonly<Record<string, () => string>> = {
    Y: () => String(day.getFullYear()),
    y: () => two(day.getFullYear() % 100),
    m: () => two(day.getMonth() + 1),
    d: () => two(day.getDate()),
    B: () => word({ month: "long" }),
    b: () => word({ month: "short" }),
    A: () => word({ weekday: "long" }),
    a: () => word({ weekday: "short" }),
    H: () => two(day.getHours()),
    M: () => two(day.getMinutes()),
    S: () => two(day.getSeconds()),
    "%": () => "%",
  };
  return String(format).replace(/%(.)/gs, (directive, letter: string) => {
    if (!Object.hasOwn(parts, letter)) throw new Error(`strftime_now() has no ${directive}`);
    return parts[letter]!();
  });
}
