/**
 * Chats made texts by a checkpoint's own template, as transformers does, and templates that must
 * not be trusted.
 */
import assert from "node:assert/strict";
import { tokenize } from "../src/corpora/texts.ts";
import { type ChatTemplateOptions, readChatTemplate } from "../src/corpora/chat_template.ts";
import type { Message } from "../src/corpora/messages.ts";
import { CheckpointError, RequestError, UnsupportedError } from "../src/errors.ts";
import type { Event } from "../src/report.ts";
import { filesOnly } from "./tiny.ts";

const GOLDEN = new URL("./golden/", import.meta.url);
const golden = async <T>(name: string): Promise<T> =>
  JSON.parse(await Deno.readTextFile(new URL(name, GOLDEN)));

/** What golden/make_chat.py wrote. */
interface ChatGolden {
  readonly templates: Readonly<Record<string, string>>;
  readonly tokenizers: Readonly<
    Record<string, { base: string; tokens: Record<string, string>; added_tokens: unknown[] }>
  >;
  readonly cases: readonly {
    readonly template: string;
    readonly tokenizer: string;
    /** With fields that are null, which transformers leaves out; so does what reads rows. */
    readonly messages: readonly Message[];
    readonly text?: string;
    readonly ids?: readonly number[];
    readonly refused?: string;
  }[];
}

/** One conversation. */
function chat(messages: readonly Message[]): { messages: readonly Message[]; where: string } {
  return { messages, where: 'line 3 of "chats.jsonl"' };
}

const HELLO = chat([{ role: "user", content: "hello" }, { role: "assistant", content: "well" }]);

/** What a template makes of a conversation. */
async function rendered(
  template: string,
  { conversation = HELLO, ...options }: ChatTemplateOptions & { conversation?: typeof HELLO } = {},
): Promise<string> {
  return (await readChatTemplate(filesOnly({ "chat_template.jinja": template }), options))(
    conversation,
  );
}

Deno.test("chats have the text and the tokens that transformers makes of them", async () => {
  const { tokenizers: bases } = await golden<{ tokenizers: Record<string, string> }>(
    "tokenizers.json",
  );
  const { templates, tokenizers, cases } = await golden<ChatGolden>("chat.json");
  assert.ok(cases.length >= 20);
  for (const { template, tokenizer, messages, text, ids, refused } of cases) {
    const { base, tokens, added_tokens } = tokenizers[tokenizer]!;
    const source = filesOnly({
      "tokenizer.json": JSON.stringify({ ...JSON.parse(bases[base]!), added_tokens }),
      "tokenizer_config.json": JSON.stringify({ ...tokens, chat_template: templates[template] }),
    });
    const stripped = messages.map((message) =>
      Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null))
    );
    const render = await readChatTemplate(source);
    if (refused === undefined) {
      assert.equal(render(chat(stripped)), text, template);
      const conversations = [chat(stripped), chat(stripped)];
      assert.deepEqual(
        [...await tokenize(source, { kind: "conversations", conversations })],
        [...ids!, ...ids!],
        `${template} with ${tokenizer}`,
      );
      continue;
    }
    assert.throws(() => render(chat(stripped)), (error) => {
      assert.ok(error instanceof RequestError);
      assert.equal(
        error.message,
        `Cannot use line 3 of "chats.jsonl": the chat template of "a test" refuses it: ` +
          `${JSON.stringify(refused)}.`,
      );
      return true;
    });
  }
});

Deno.test("a chat template is taken from its own file, then the tokenizer's settings, then its JSON file", async () => {
  const say = (word: string) => `${word}:{{ messages[0].content }}`;
  const all = {
    "chat_template.jinja": say("jinja"),
    "tokenizer_config.json": JSON.stringify({ chat_template: say("config") }),
    "chat_template.json": JSON.stringify({ chat_template: say("json") }),
  };
  const named = (...names: string[]) =>
    JSON.stringify({ chat_template: names.map((name) => ({ name, template: say(name) })) });
  const cases: readonly [Record<string, string>, string][] = [
    [all, "jinja"],
    [{ ...all, "chat_template.jinja": undefined! }, "config"],
    [{ ...all, "chat_template.jinja": undefined!, "tokenizer_config.json": "{}" }, "json"],
    [{ "tokenizer_config.json": named("tool_use", "default") }, "default"],
  ];
  for (const [files, word] of cases) {
    const there = Object.fromEntries(
      Object.entries(files).filter(([, text]) => text !== undefined),
    );
    assert.equal((await readChatTemplate(filesOnly(there)))(HELLO), `${word}:hello`);
  }
  for (
    const [files, found] of [
      [{}, /\(neither chat_template\.jinja, nor "chat_template" in tokenizer_config\.json\)/],
      [{ "tokenizer_config.json": "{}" }, /\(neither chat_template\.jinja/],
      [{ "tokenizer_config.json": `{"chat_template": null}` }, /\(neither chat_template\.jinja/],
      [{ "tokenizer_config.json": `{"chat_template": 7}` }, /"chat_template" in .* is no text/],
      [{ "tokenizer_config.json": `{"chat_template": [7]}` }, /"chat_template" in .* is no text/],
      [{ "tokenizer_config.json": named("rag", "b") }, /has templates named "rag", "b", and none/],
    ] as readonly [Record<string, string>, RegExp][]
  ) {
    await assert.rejects(readChatTemplate(filesOnly(files)), (error) => {
      assert.ok(error instanceof UnsupportedError);
      assert.match(error.message, found);
      assert.match(error.message, /Give rows with a "text", or put the template of its chat model/);
      return true;
    });
  }
  for (const files of [{ "tokenizer_config.json": "{" }, { "chat_template.json": "[]" }]) {
    await assert.rejects(readChatTemplate(filesOnly(files)), CheckpointError);
  }
});

Deno.test("templates know the special tokens by name, from texts and from objects", async () => {
  const files = {
    "chat_template.jinja": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|" +
      "{{ add_generation_prompt }}|{{ tools is none }}|{{ add_bos_token is defined }}",
    "special_tokens_map.json": JSON.stringify({ pad_token: "<pad>", eos_token: "<old>" }),
    "tokenizer_config.json": JSON.stringify({
      bos_token: "<s>",
      eos_token: { content: "</s>", lstrip: false },
      unk_token: null,
      add_bos_token: true,
    }),
  };
  const render = await readChatTemplate(filesOnly(files));
  assert.equal(render(HELLO), "<s>|</s>|<pad>||false|true|false");
});

Deno.test("a template that writes the day writes it in English, and an event says that tokens depend on it", async () => {
  const events: Event[] = [];
  const options = {
    today: new Date(2026, 2, 5, 7, 8, 9),
    report: (event: Event) => void events.push(event),
  };
  const template = (format: string) => `{{ strftime_now("${format}") }}`;
  const all = template("%Y-%m-%d %y %B %b %A %a %H:%M:%S 100%%");
  assert.equal(await rendered(all, options), "2026-03-05 26 March Mar Thursday Thu 07:08:09 100%");
  assert.equal(events.length, 1);
  assert.match(JSON.stringify(events), /dated-template.*today's date/);
  const render = await readChatTemplate(
    filesOnly({ "chat_template.jinja": template("%d %b %Y") }),
    options,
  );
  assert.equal(render(HELLO) + render(HELLO), "05 Mar 202605 Mar 2026");
  assert.equal(events.length, 2);
  await assert.rejects(rendered(template("%Q"), options), /strftime_now\(\) has no %Q/);
});

Deno.test("a template that cannot be read, or fails on a chat, is refused with its file and the row", async () => {
  const parts = chat([{ role: "user", content: [{ type: "text", text: "hello" }] }]);
  const cases: readonly [string, RegExp, typeof HELLO?][] = [
    ["{% for message in messages %}", /the chat template of "a test" \(chat_template\.jinja\): /],
    ["{{ (((((((", /Cannot use the chat template/],
    ["{{ ".repeat(60_000), /has 180000 characters, at most 65536 are read/],
    ["{{ messages[0].nothing + 'x' }}", /Cannot use line 3 of "chats\.jsonl": .* fails on it: /],
    ["{{ messages | nothing }}", /fails on it: .*nothing/],
    ["{{ 'a' + messages[0].content }}", /writes a list as if it were text/, parts],
    ["{{ 'a' ~ messages[0].content }}", /writes a list as if it were text/, parts],
    ["{{ messages[0].content }}", /writes a list as if it were text/, parts],
    ["{{ messages[0] | string }}", /writes a mapping as if it were text/],
    ["{{ messages[0] }}", /writes a mapping as if it were text/],
    ["{{ messages[0].content.strip(7) }}", /strip\(\) is asked of what is no text/],
    // The interpreter would forget "a".
    ["{% for m in messages %}a{% continue %}{% endfor %}", /writes text and then ends its turn/],
    [
      "{% for m in messages %}{% if m %}{{ m.role }}{% endif %}{% if m %}{% break %}{% endif %}b{% endfor %}",
      /writes text and then ends its turn \(break\)/,
    ],
  ];
  for (const [template, message, conversation = HELLO] of cases) {
    await assert.rejects(rendered(template, { conversation }), (error) => {
      assert.ok(error instanceof CheckpointError, String(error));
      assert.equal(error.file, "chat_template.jinja");
      assert.match(error.message, message);
      return true;
    });
  }
  const compared = "{% if messages[0].content == 'a' %}x{% else %}y{% endif %}";
  assert.equal(await rendered(compared, { conversation: parts }), "y");
  const skipped =
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}";
  assert.equal(await rendered(skipped), "assistant");
});

Deno.test("a template cannot hold the program up, fill its memory, or reach what it was not given", async () => {
  const times = (n: number, text: string) => text.repeat(n);
  const attacks = {
    loops: times(6, "{% for i in range(99999) %}") + "x" + times(6, "{% endfor %}"),
    "empty loops": times(6, "{% for i in range(99999) %}") + times(6, "{% endfor %}"),
    range: "{% for i in range(99999999999) %}x{% endfor %}",
    recursion: "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "growing text":
      "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "growing list":
      "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | length }}",
    "nested list":
      "{% set n = namespace(s=['x']) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
    replacing:
      "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s.replace('x', n.s) %}{% endfor %}{{ n.s }}",
    depth: "{{ " + times(20_000, "(") + "1" + times(20_000, ")") + " }}",
  };
  for (const [name, template] of Object.entries(attacks)) {
    await assert.rejects(rendered(template), (error) => {
      assert.ok(error instanceof CheckpointError, `${name}: ${error}`);
      return true;
    }, name);
  }
  for (const name of ["Deno", "globalThis", "constructor", "__proto__", "process"]) {
    const template = `{{ ${name} is defined }}{{ messages.${name} is defined }}` +
      `{{ messages[0].${name} is defined }}{{ messages[0].content.${name} is defined }}`;
    assert.equal(await rendered(template), times(4, "false"), name);
  }
});

Deno.test("chats that become too much text are refused before they are tokenized", async () => {
  const { tokenizers } = await golden<{ tokenizers: Record<string, string> }>("tokenizers.json");
  const source = filesOnly({
    "tokenizer.json": tokenizers.llama3!,
    "chat_template.jinja": "{{ messages[0].content }}".repeat(16),
  });
  const large = chat([{ role: "user", content: "x".repeat(2 ** 20) }]);
  const conversations = Array.from({ length: 9 }, () => large);
  await assert.rejects(tokenize(source, { kind: "conversations", conversations }), (error) => {
    assert.ok(error instanceof RequestError);
    assert.match(
      error.message,
      /^Cannot use line 3 of "chats\.jsonl": up to it the chats have 150994944 characters, at most 134217728 are/,
    );
    return true;
  });
});

Deno.test("a template's own message is shown without what a terminal acts on", async () => {
  await assert.rejects(
    rendered("{{ raise_exception('\u001b[2Jno\u202e' ~ messages[0].content) }}"),
    (error) => {
      assert.ok(error instanceof RequestError);
      assert.match(error.message, /refuses it: "\\u001b\[2Jno\\u202ehello"\.$/);
      return true;
    },
  );
});
