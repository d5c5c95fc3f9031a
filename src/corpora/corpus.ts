/**
 * What a model is run on, before it is tokens: a text, or chats. Refused: rows of both kinds in one
 * corpus.
 */
import type { Message } from "./messages.ts";
import type { Fail } from "./messages.ts";
import type { Row } from "./rows.ts";

/** A chat of a corpus. */
export interface Conversation {
  readonly messages: readonly Message[];
  /** Where it comes from, for messages: `line 3 of "chats.jsonl"`. */
  readonly where: string;
}

/** One text, or conversations that the model's chat template makes texts of. */
export type Corpus =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "conversations"; readonly conversations: readonly Conversation[] };

/**
 * The rows of a corpus put together: texts joined by `joiner`, conversations one after another.
 *
 * @param options.name the corpus, fit to stand in a message
 */
export async function gatherRows(
  rows: Iterable<Row> | AsyncIterable<Row>,
  { joiner, name, fail }: { joiner: string; name: string; fail: Fail },
): Promise<Corpus> {
  const texts: string[] = [];
  const conversations: Conversation[] = [];
  for await (const { content, where } of rows) {
    if (typeof content === "string") texts.push(content);
    else conversations.push({ messages: content, where: `${where} of ${name}` });
    if (texts.length > 0 && conversations.length > 0) {
      const [one, other] = typeof content === "string" ? ["text", "chats"] : ["a chat", "texts"];
      fail(`${where} has ${one} and those before it have ${other}; put them into files apart`);
    }
  }
  return conversations.length > 0
    ? { kind: "conversations", conversations }
    : { kind: "text", text: texts.join(joiner) };
}
