/**
 * Chats as rows of datasets have them: `messages` with a role and a content each, as OpenAI's
 * interface takes them, or ShareGPT's `conversations` (`from`, `value`). Refused: what is neither,
 * and messages that say nothing.
 */
import { isObject } from "../json.ts";

/** Gives up: `why` continues a sentence. */
export type Fail = (why: string, cause?: unknown) => never;

/**
 * One turn of a chat: `role`, `content`, and what else its row has for the chat template (tool
 * calls, a name).
 */
export type Message = Readonly<Record<string, unknown>>;

/** ShareGPT's names of the roles, and those that some of its heirs use. */
const ROLES: ReadonlyMap<unknown, string> = new Map([
  ["human", "user"],
  ["user", "user"],
  ["gpt", "assistant"],
  ["assistant", "assistant"],
  ["system", "system"],
]);

/**
 * The messages of a row, in the form that chat templates take. Fields that are null are left out,
 * as transformers does: parquet files have every field in every message.
 *
 * @param options.where the row, for messages: `line 3`
 */
export function readMessages(
  list: readonly unknown[],
  { where, fail }: { where: string; fail: Fail },
): readonly Message[] {
  if (list.length === 0) return fail(`${where} has no messages`);
  return list.map((entry, i) => {
    const message = isObject(entry)
      ? Object.fromEntries(Object.entries(entry).filter(([, value]) => value !== null))
      : {};
    const place = `message ${i + 1} of ${where}`;
    const { role, content } = message;
    if (typeof role === "string") {
      const says = typeof content === "string" || Array.isArray(content) ||
        content === undefined && "tool_calls" in message;
      return says ? message : fail(`${place} has no "content" that is a text or a list of parts`);
    }
    const { from, value } = message;
    if (typeof from !== "string" || typeof value !== "string") {
      return fail(`${place} has neither "role" and "content" nor "from" and "value"`);
    }
    return {
      role: ROLES.get(from) ??
        fail(`${place} is from ${JSON.stringify(from)}, expected human, gpt or system`),
      content: value,
    };
  });
}
