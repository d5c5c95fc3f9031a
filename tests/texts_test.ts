/** Texts, tokens, windows, and hidden states that spill. */
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import type { Backend } from "../src/backend.ts";
import { makeWindows, readCorpus, tokenize } from "../src/corpora/texts.ts";
import { CheckpointError, RequestError, UnsupportedError } from "../src/errors.ts";
import { prepareCalibration, prepareWindows } from "../src/windows.ts";
import { HiddenStates } from "../src/forward/hidden_states.ts";
import { disk } from "../src/io/disk.ts";
import type { Event } from "../src/report.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { SAMPLE_MODEL } from "../src/sources/sample.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";
import { filesOnly } from "./tiny.ts";

const GOLDEN = new URL("./golden/", import.meta.url);

/** Run with files in a folder that is removed afterwards. */
async function withFiles(
  files: Readonly<Record<string, string | Uint8Array>>,
  test: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      await Deno.writeFile(`${folder}/${name}`, bytes);
    }
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("the sample's texts have the tokens that its README counts", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const validation = await readCorpus("sample", { disk, purpose: "evaluation" });
  const calibration = await readCorpus("sample", { disk, purpose: "calibration" });
  assert.equal((await tokenize(source, validation)).length, 125_348);
  assert.equal((await tokenize(source, calibration)).length, 111_944);
});

interface TokenizerGolden {
  readonly tokenizers: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly tokenizer: string;
    readonly text: string;
    readonly ids: readonly number[];
  }[];
}

Deno.test("tokens equal those of Hugging Face's own library, special ones included", async () => {
  const { tokenizers, cases }: TokenizerGolden = JSON.parse(
    await Deno.readTextFile(new URL("tokenizers.json", GOLDEN)),
  );
  assert.ok(cases.length >= 30);
  for (const { tokenizer, text, ids } of cases) {
    const source = filesOnly({ "tokenizer.json": tokenizers[tokenizer]! });
    assert.deepEqual(
      [...await tokenize(source, { kind: "text", text })],
      ids,
      `${tokenizer}: ${text}`,
    );
  }
});

Deno.test("a truncation that was saved with a tokenizer does not cut the text", async () => {
  const { tokenizers, cases }: TokenizerGolden = JSON.parse(
    await Deno.readTextFile(new URL("tokenizers.json", GOLDEN)),
  );
  const { tokenizer, text, ids } = cases.toSorted((a, b) => b.ids.length - a.ids.length)[0]!;
  const definition = JSON.parse(tokenizers[tokenizer]!);
  definition.truncation = {
    direction: "Right",
    max_length: 3,
    strategy: "LongestFirst",
    stride: 0,
  };
  const source = filesOnly({ "tokenizer.json": JSON.stringify(definition) });
  assert.deepEqual([...await tokenize(source, { kind: "text", text })], ids);
});

Deno.test("a checkpoint without a tokenizer.json, or with a broken one, is refused in a sentence", async () => {
  await assert.rejects(tokenize(filesOnly({}), { kind: "text", text: "x" }), (error) => {
    assert.ok(error instanceof UnsupportedError);
    assert.match(error.message, /no tokenizer\.json/);
    return true;
  });
  const broken = [
    "{",
    "[]",
    "7",
    "{}",
    `{"model": {"type": "Nothing"}}`,
    `{"model": {"type": "BPE", "vocab": {"a": "one"}, "merges": []}, "added_tokens": [], "pre_tokenizer": null,
      "normalizer": null, "post_processor": null, "decoder": null}`,
    `{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}, "added_tokens": [], "pre_tokenizer": null,
      "normalizer": null, "post_processor": null, "decoder": null}`,
  ];
  for (const text of broken) {
    await assert.rejects(
      tokenize(filesOnly({ "tokenizer.json": text }), { kind: "text", text: "aa" }),
      (error) => error instanceof CheckpointError && /tokenizer\.json.*\.$/s.test(error.message),
      text,
    );
  }
});

Deno.test("a text file is read as it is, and JSON lines are joined by an empty line", async () => {
  const files = {
    "a.txt": "one\r\n\n two\u00e9",
    "a.jsonl": `{"text": "one"}\n\n{"text": "", "id": 2}\n{"text": "th\\nree"}\n`,
  };
  await withFiles(files, async (folder) => {
    const read = (name: string) => readCorpus(`${folder}/${name}`, { disk, purpose: "evaluation" });
    assert.deepEqual(await read("a.txt"), { kind: "text", text: "one\r\n\n two\u00e9" });
    assert.deepEqual(await read("a.jsonl"), { kind: "text", text: "one\n\n\n\nth\nree" });
  });
});

Deno.test("rows are read as rows whatever their file is called: lists, lines, tables, parquet, packed", async () => {
  const rows = [{ text: "one" }, { text: 'two, with\n"commas"' }];
  const lines = rows.map((row) => JSON.stringify(row)).join("\n");
  const golden = await Deno.readFile(new URL("rows_zstd.parquet", GOLDEN));
  const files = {
    "list.json": JSON.stringify(rows, null, 2),
    "lines.json": lines,
    "lines.ndjson": lines,
    "LINES.JSONL": lines,
    "lines.jsonl.gz": gzipSync(lines),
    "rows.csv": `\ufefflabel,text\r\n1,one\r\n\r\n2,"two, with\n""commas"""\r\n`,
    "rows.tsv": `text\tlabel\none\t1\n"two, with\n""commas"""\t2\n`,
    "rows.parquet": golden,
  };
  await withFiles(files, async (folder) => {
    for (const name of Object.keys(files)) {
      const corpus = await readCorpus(`${folder}/${name}`, { disk, purpose: "evaluation" });
      assert.ok(corpus.kind === "text");
      if (name === "rows.parquet") assert.match(corpus.text, /Zwei Zeilen\nund ein Umlaut/);
      else assert.equal(corpus.text, rows.map(({ text }) => text).join("\n\n"), name);
    }
  });
  const chats = [{ conversations: [{ from: "human", value: "q" }, { from: "gpt", value: "a" }] }];
  await withFiles({ "chats.json": JSON.stringify(chats) }, async (folder) => {
    const corpus = await readCorpus(`${folder}/chats.json`, { disk, purpose: "calibration" });
    assert.ok(corpus.kind === "conversations");
    assert.equal(corpus.conversations[0]!.where, `row 1 of "${folder}/chats.json"`);
  });
});

Deno.test("JSON lines with messages are conversations, ShareGPT's too; what else a message has is kept", async () => {
  const call = { name: "add", arguments: { a: 1 } };
  const lines = [
    { messages: [{ role: "user", content: "q" }, { role: "assistant", content: "a", weight: 1 }] },
    { text: null, messages: [{ role: "assistant", content: null, tool_calls: [call] }] },
    { messages: [{ role: "user", content: [{ type: "text", text: "part" }] }] },
    {
      conversations: [
        { from: "system", value: "s" },
        { from: "human", value: "q" },
        { from: "gpt", value: "a" },
      ],
    },
    { conversations: [{ role: "user", content: "q" }] },
  ];
  const text = lines.map((line) => JSON.stringify(line)).join("\n\n");
  await withFiles({ "chats.jsonl": text }, async (folder) => {
    const corpus = await readCorpus(`${folder}/chats.jsonl`, { disk, purpose: "calibration" });
    assert.ok(corpus.kind === "conversations");
    assert.deepEqual(corpus.conversations.map(({ messages }) => messages), [
      lines[0]!.messages,
      [{ role: "assistant", tool_calls: [call] }],
      lines[2]!.messages,
      [
        { role: "system", content: "s" },
        { role: "user", content: "q" },
        { role: "assistant", content: "a" },
      ],
      [{ role: "user", content: "q" }],
    ]);
    assert.equal(corpus.conversations[1]!.where, `line 3 of "${folder}/chats.jsonl"`);
  });
  // A text comes first, as it always did.
  const both = `{"text": "one", "messages": [{"role": "user", "content": "q"}]}`;
  await withFiles({ "both.jsonl": both }, async (folder) => {
    const corpus = await readCorpus(`${folder}/both.jsonl`, { disk, purpose: "evaluation" });
    assert.deepEqual(corpus, { kind: "text", text: "one" });
  });
});

Deno.test("chats need a chat template: the sample model, which has none, is refused with what to do", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const chats = `{"messages": [{"role": "user", "content": "hi"}]}\n`.repeat(40);
  await withFiles({ "chats.jsonl": chats }, async (folder) => {
    for (const prepare of [prepareCalibration, prepareWindows]) {
      await assert.rejects(prepare(source, { corpus: `${folder}/chats.jsonl` }), (error) => {
        assert.ok(error instanceof UnsupportedError);
        assert.match(error.message, /has no chat template .*Give rows with a "text", or put/);
        return true;
      });
    }
  });
});

Deno.test("a model that has a chat template is calibrated and measured on chats", async () => {
  const row = (i: number) => ({ messages: [{ role: "user", content: `Where is number ${i}?` }] });
  const chats = Array.from({ length: 60 }, (_, i) => JSON.stringify(row(i))).join("\n");
  const template =
    "{{ strftime_now('%Y') and bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}";
  await withFiles({ "chats.jsonl": chats, "chat_template.jinja": template }, async (folder) => {
    for (const { name } of Deno.readDirSync(SAMPLE_MODEL)) {
      await Deno.copyFile(new URL(name, SAMPLE_MODEL), `${folder}/${name}`);
    }
    await using source = await openCheckpoint(folder);
    const events: Event[] = [];
    const report = (event: Event) => void events.push(event);
    const options = { corpus: `${folder}/chats.jsonl`, seqLen: 64, report };
    const calibration = await prepareCalibration(source, options);
    // The sample's tokenizer adds nothing by itself, so a text may show what the template wrote.
    const text = "<|endoftext|>user: Where is number 0?<|endoftext|>user: Where";
    const begin = await tokenize(source, { kind: "text", text });
    assert.deepEqual(calibration.windows[0]!.slice(0, begin.length), begin);
    assert.deepEqual(
      events.map((event) => event.type === "warning" && event.code),
      ["dated-template", "few-windows"],
    );
    assert.ok(calibration.windows.length > 5);
    assert.equal(calibration.windows.length, calibration.available);
    assert.deepEqual(await prepareWindows(source, options), calibration);
  });
});

Deno.test("a text that cannot be used is refused in a sentence that says why", async () => {
  const files = {
    "latin.txt": Uint8Array.of(0x61, 0xe9, 0x62),
    "mixed.jsonl": `{"text": "one"}\n\n{"messages": [{"role": "user", "content": "hi"}]}\n`,
    "mixed_too.jsonl": `{"conversations": [{"from": "human", "value": "hi"}]}\n{"text": "one"}\n`,
    "none.jsonl": `{"messages": []}\n`,
    "strings.jsonl": `{"messages": ["hi"]}\n`,
    "empty.jsonl": `{"messages": [{"role": "user", "content": "hi"}, {"role": "user"}]}\n`,
    "null.jsonl": `{"messages": [{"role": "user", "content": null}]}\n`,
    "seven.jsonl": `{"messages": [{"role": "user", "content": 7}]}\n`,
    "from.jsonl": `{"conversations": [{"from": "human"}]}\n`,
    "who.jsonl": `{"conversations": [{"from": "chatgpt", "value": "hi"}]}\n`,
    "other.jsonl": `{"text": "one"}\n{"content": "two"}\n`,
    "number.jsonl": `{"text": 3}\n`,
    "array.jsonl": `["one"]\n`,
    "broken.jsonl": `{"text": "one"}\n{"text": "two"\n`,
    "list.json": `[{"text": "one"}, 7]`,
    "cut.json": `[{"text": "one"},`,
    "object.json": `{\n  "text": "one"\n}`,
    "columns.csv": `title,label\na,1\n`,
    "rows.csv": `text,label\n"one,1\n`,
    "half.csv": `text,label\none\n`,
    "book.PDF": "%PDF-1.7",
    "cut.jsonl.gz": gzipSync(`{"text": "one"}`).subarray(0, 20),
  };
  const reasons: Record<string, RegExp> = {
    "latin.txt": /is not UTF-8/,
    "mixed.jsonl": /line 3 has a chat and those before it have texts/,
    "mixed_too.jsonl": /line 2 has text and those before it have chats/,
    "none.jsonl": /line 1 has no messages/,
    "strings.jsonl": /message 1 of line 1 has neither "role" and "content" nor "from" and "value"/,
    "empty.jsonl": /message 2 of line 1 has no "content" that is a text or a list of parts/,
    "null.jsonl": /message 1 of line 1 has no "content"/,
    "seven.jsonl": /message 1 of line 1 has no "content"/,
    "from.jsonl": /message 1 of line 1 has neither/,
    "who.jsonl": /message 1 of line 1 is from "chatgpt", expected human, gpt or system/,
    "other.jsonl": /line 2 has no "text", no "messages", no "conversations"/,
    "number.jsonl": /line 1 has no "text"/,
    "array.jsonl": /row 1 has no "text"/,
    "broken.jsonl": /line 2 is not JSON/,
    "list.json": /row 2 has no "text"/,
    "cut.json": /it is not JSON/,
    "object.json": /line 1 is not JSON/,
    "columns.csv":
      /columns\.csv" has no column "text", only "title", "label"; rename one to "text"/,
    "rows.csv": /no table of comma-separated values .*[Qq]uote/,
    "half.csv": /no table of comma-separated values/,
    "book.PDF": /no parquet, JSON, CSV or text file; convert it first/,
    "cut.jsonl.gz": /damaged/,
    "missing.txt": /there is no such file/,
    "": /it is a folder/,
  };
  await withFiles(files, async (folder) => {
    for (const [name, pattern] of Object.entries(reasons)) {
      await assert.rejects(
        readCorpus(`${folder}/${name}`, { disk, purpose: "evaluation" }),
        (error) => {
          assert.ok(error instanceof RequestError, String(error));
          assert.match(error.message, pattern);
          return true;
        },
      );
    }
  });
});

Deno.test("windows do not overlap, the tail is dropped, and a maximum is kept", () => {
  const tokens = Uint32Array.from({ length: 11 }, (_, i) => i);
  assert.deepEqual(makeWindows(tokens, { seqLen: 4 }).map((window) => [...window]), [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
  ]);
  assert.equal(makeWindows(tokens, { seqLen: 2, maxWindows: 3 }).length, 3);
  assert.equal(makeWindows(tokens, { seqLen: 11, maxPositions: 11 }).length, 1);
  assert.equal(makeWindows(tokens, { seqLen: 4 })[1]!.buffer.byteLength, 16);
});

Deno.test("with a seed windows are drawn: the same for the same seed, none twice, in the text's order", () => {
  const tokens = Uint32Array.from({ length: 1003 }, (_, i) => i);
  const drawn = (seed: number, maxWindows = 20) =>
    makeWindows(tokens, { seqLen: 10, maxWindows, seed }).map((window) => {
      assert.deepEqual([...window], Array.from({ length: 10 }, (_, i) => window[0]! + i));
      return window[0]! / 10;
    });
  // Written down from the first run: another order of drawing would change what people calibrated
  // on.
  assert.deepEqual(drawn(7), [
    1,
    7,
    8,
    24,
    29,
    30,
    33,
    40,
    42,
    43,
    46,
    49,
    54,
    58,
    61,
    70,
    75,
    79,
    97,
    98,
  ]);
  assert.notDeepEqual(drawn(8), drawn(7));
  assert.deepEqual(drawn(7, 100), Array.from({ length: 100 }, (_, i) => i));
  assert.deepEqual(drawn(7, 1e9), drawn(8, 1e9));
  const times = new Uint32Array(100);
  for (let seed = 0; seed < 2000; seed++) {
    const places = drawn(seed);
    assert.equal(new Set(places).size, 20);
    assert.deepEqual(places, places.toSorted((a, b) => a - b));
    for (const place of places) times[place]!++;
  }
  // Each window is drawn 400 times in the mean with a standard deviation of 18.
  assert.ok(times.every((n) => n > 400 - 5 * 18 && n < 400 + 5 * 18), times.join());
});

Deno.test("prepareCalibration() takes 128 windows of 512 tokens of the sample's calibration text, and says so", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const events: Event[] = [];
  const report = (event: Event) => void events.push(event);
  const prepared = await prepareCalibration(source, { report });
  assert.deepEqual(
    [prepared.corpus, prepared.seqLen, prepared.windows.length, prepared.available, prepared.seed],
    ["sample", 512, 128, 218, undefined],
  );
  const corpus = await readCorpus("sample", { disk, purpose: "calibration" });
  assert.deepEqual(prepared.windows[0], (await tokenize(source, corpus)).slice(0, 512));
  assert.deepEqual(events.map((event) => event.type === "warning" && event.code), [
    "sample-calibration",
  ]);
  assert.match(JSON.stringify(events), /embedded sample text, which is old prose.*`calibration`/);
  // Asked for by name, it is no surprise; nor are the windows of an evaluation of the same text.
  events.length = 0;
  const options = { corpus: "sample", seed: 3, numSamples: 5, seqLen: 64, report };
  const drawn = await prepareCalibration(source, options);
  assert.deepEqual([drawn.windows.length, drawn.seed], [5, 3]);
  assert.deepEqual((await prepareCalibration(source, options)).windows, drawn.windows);
  assert.notDeepEqual(
    (await prepareCalibration(source, { ...options, seed: 4 })).windows,
    drawn.windows,
  );
  const measured = await prepareWindows(source, { report });
  assert.deepEqual(
    [measured.windows.length, measured.available, measured.seqLen],
    [measured.available, measured.available, 1024],
  );
  assert.deepEqual(events, []);
});

Deno.test("a text with fewer windows than wanted is calibrated on with a warning, one without any is refused", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  await withFiles({ "a.txt": "word ".repeat(1200), "b.txt": "too short" }, async (folder) => {
    const events: Event[] = [];
    const report = (event: Event) => void events.push(event);
    const { windows } = await prepareCalibration(source, { corpus: `${folder}/a.txt`, report });
    assert.ok(windows.length >= 1 && windows.length < 128);
    assert.equal(events.length, 1);
    const [warning] = events;
    assert.ok(warning?.type === "warning" && warning.code === "few-windows");
    assert.match(
      warning.message,
      /^Calibrating on fewer windows than wanted: ".*a\.txt" has \d+ of 128, each of 512 tokens\.$/,
    );
    await assert.rejects(
      prepareCalibration(source, { corpus: `${folder}/b.txt`, report }),
      (error) => error instanceof RequestError && /use a longer text/.test(error.message),
    );
    await assert.rejects(
      prepareCalibration(source, { corpus: `${folder}/a.txt`, seqLen: 1025 }),
      /the model was made for 1024 positions/,
    );
  });
});

Deno.test("windows that cannot be made are refused in a sentence", () => {
  const tokens = new Uint32Array(100);
  const wrong: [Parameters<typeof makeWindows>[1], RegExp][] = [
    [{ seqLen: 101 }, /the text has only 100/],
    [{ seqLen: 64, maxPositions: 32 }, /made for 32 positions/],
    [{ seqLen: 1 }, /at least 2/],
    [{ seqLen: 2.5 }, /whole number/],
    [{ seqLen: NaN }, /whole number/],
    [{ seqLen: 10, maxWindows: 0 }, /0 windows were asked for/],
    [{ seqLen: 10, seed: -1 }, /the seed is -1, expected a whole number from 0 to 4294967295/],
    [{ seqLen: 10, seed: 2 ** 32 }, /the seed is 4294967296/],
    [{ seqLen: 10, seed: 0.5 }, /the seed is 0\.5/],
  ];
  for (const [options, pattern] of wrong) {
    assert.throws(() => makeWindows(tokens, options), (error) => {
      assert.ok(error instanceof RequestError);
      assert.match(error.message, pattern);
      return true;
    });
  }
});

const SHAPE = [5, 7] as const;

/**
 * Set three stacks, then replace each by the one read back from the stack before; return all bytes
 * at the end.
 */
async function exercise(states: HiddenStates, backend: Backend): Promise<Uint8Array[]> {
  for (let stack = 0; stack < 3; stack++) {
    using scope = backend.scope();
    const tensor = scope.alloc("f32", SHAPE);
    const values = gaussian(35, stack + 1);
    values.set([NaN, -0, Infinity, 1e-40]);
    backend.write(tensor, new Uint8Array(values.buffer));
    await states.set(stack, tensor, scope);
  }
  for (let stack = 0; stack < 3; stack++) {
    using scope = backend.scope();
    // What `get` gave may be set again, into the same stack.
    await states.set(stack, await states.get(stack, scope), scope);
    const copy = scope.alloc("f32", SHAPE);
    const [bytes] = await backend.read(await states.get((stack + 2) % 3, scope));
    backend.write(copy, bytes!);
    await states.set(stack, copy, scope);
  }
  using scope = backend.scope();
  return await Promise.all([0, 1, 2].map(async (stack) => {
    const [bytes] = await backend.read(await states.get(stack, scope));
    return bytes!;
  }));
}

onEveryBackend("hidden states are the same bytes whatever the budget", async (backend) => {
  const results: Uint8Array[][] = [];
  await withFiles({}, async (folder) => {
    for (
      const [kept, batchBytes] of [[3, 0], [2, 0], [1, 0], [0, 0], [0, 2 * 4 * 35], [
        0,
        1e6,
      ]] as const
    ) {
      const opened = await HiddenStates.open({
        backend,
        rows: [5, 5, 5],
        channels: 7,
        resident: kept,
        spill: { disk, folder },
        batchBytes,
      });
      {
        await using states = opened;
        assert.equal(states.spilledStacks, 3 - kept);
        assert.equal([...Deno.readDirSync(folder)].length, kept < 3 ? 1 : 0);
        results.push(await exercise(states, backend));
      }
      assert.deepEqual([...Deno.readDirSync(folder)], []);
    }
  });
  for (const result of results) assert.deepEqual(result, results[0]);
  // The second pass gave stack 0 what stack 2 had, and that went on to stacks 1 and 2.
  assert.deepEqual(results[0]![1], results[0]![0]);
  assert.equal(new Float32Array(results[0]![0]!.buffer)[5], gaussian(35, 3)[5]);
});

onEveryBackend(
  "hidden states refuse other shapes, stacks that are not there, and no folder to spill to",
  async (backend) => {
    const open = { backend, rows: [5, 5], channels: 7 };
    await assert.rejects(HiddenStates.open({ ...open, resident: 1 }), /give a folder to spill/);
    await using states = await HiddenStates.open({ ...open, resident: 2 });
    using scope = backend.scope();
    await assert.rejects(states.get(0, scope), /never set/);
    await assert.rejects(states.get(2, scope), /stack 2: there are 2/);
    await assert.rejects(
      states.set(0, scope.alloc("f32", [7, 5]), scope),
      /got f32\[7,5\], expected f32\[5,7\]/,
    );
    await assert.rejects(states.set(-1, scope.alloc("f32", SHAPE), scope), RangeError);
  },
);
