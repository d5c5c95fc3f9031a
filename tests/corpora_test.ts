/**
 * Texts and chats from datasets of the Hub: how they are named, which files they are, and the
 * protocols of papers.
 */
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { readCorpus } from "../src/corpora/texts.ts";
import type { Corpus } from "../src/corpora/corpus.ts";
import { findSplit } from "../src/corpora/dataset_files.ts";
import { parseDatasetSpec } from "../src/corpora/dataset_spec.ts";
import { readHubCorpus } from "../src/corpora/hub_corpus.ts";
import { HubError, RequestError } from "../src/errors.ts";
import type { HubFile } from "../src/hub/client.ts";
import { disk } from "../src/io/disk.ts";
import type { Event } from "../src/report.ts";
import { clientOf, startHub } from "./hub_given.ts";

const golden = (name: string) =>
  Deno.readFileSync(new URL(`./golden/${name}`, import.meta.url)) as Uint8Array<ArrayBuffer>;
/** What golden/make_parquet.py wrote. */
const TEXTS = [
  "",
  " = Title = \n",
  "",
  "Zwei Zeilen\nund ein Umlaut: ü, 漢字, 🙂",
  " last @-@ row ",
  ...Array.from({ length: 40 }, (_, i) => `row ${i} ` + "word ".repeat(i % 7)),
];
/** A corpus that is a text, as that text. */
function textOf(corpus: Corpus): string {
  assert.ok(corpus.kind === "text");
  return corpus.text;
}
const jsonl = (texts: readonly string[], column = "text") =>
  texts.map((text, id) => JSON.stringify({ id, [column]: text })).join("\n") + "\n";

Deno.test("wikitext2 is the raw test split joined by empty lines, the training split for calibration", async () => {
  await using hub = await startHub({}, {
    repos: {
      "datasets/Salesforce/wikitext": {
        "wikitext-2-raw-v1/test-00000-of-00001.parquet": golden("rows_snappy.parquet"),
        "wikitext-2-raw-v1/train-00000-of-00001.parquet": golden("rows_zstd.parquet"),
        "wikitext-2-v1/test-00000-of-00001.parquet": "not this one",
        "README.md": "",
      },
    },
  });
  const client = clientOf(hub);
  for (const purpose of ["evaluation", "calibration"] as const) {
    const corpus = await readCorpus("wikitext2", { disk, purpose, hub: client });
    assert.equal(textOf(corpus), TEXTS.join("\n\n"));
  }
  assert.ok(hub.log.some(({ path }) => path.includes("wikitext-2-raw-v1/train")));
  assert.ok(!hub.log.some(({ path }) => path.includes("wikitext-2-v1/")));
});

Deno.test("c4 is the first 1100 documents joined by spaces, of which no more is fetched than that", async () => {
  const documents = Array.from(
    { length: 12_000 },
    (_, i) => Array.from({ length: 50 }, (_, j) => Math.sin(i * 50 + j)).join(" "),
  );
  const packed = Uint8Array.from(gzipSync(jsonl(documents)));
  await using hub = await startHub({}, {
    repos: {
      "datasets/allenai/c4": {
        "en/c4-validation.00000-of-00008.json.gz": packed,
        "en/c4-train.00000-of-01024.json.gz": Uint8Array.from(gzipSync(jsonl(["x", "y"]))),
      },
    },
  });
  const client = clientOf(hub);
  const text = textOf(await readHubCorpus("c4", { client, purpose: "evaluation" }));
  assert.equal(text, documents.slice(0, 1100).join(" "));
  const sent = hub.log.filter(({ origin }) => origin === "storage")
    .reduce((n, { sent }) => n + sent, 0);
  assert.ok(sent < packed.length, `${sent} of ${packed.length}`);
  assert.equal(textOf(await readHubCorpus("c4", { client, purpose: "calibration" })), "x y");
});

Deno.test("a dataset is read by configuration, split and column, or as one file", async () => {
  await using hub = await startHub({}, {
    repos: {
      "datasets/org/set": {
        "README.md": "",
        "train.jsonl": jsonl(["train a", "train b"]),
        "test.jsonl": jsonl(["test a", "test b"]),
        "extra/notes.txt": "plain text\n",
        "extra/content.jsonl.gz": Uint8Array.from(gzipSync(jsonl(["c"], "content"))),
        "extra/chat.jsonl": JSON.stringify({ messages: [] }),
      },
      "datasets/org/one": { "data/train-00000-of-00001.parquet": golden("rows_snappy.parquet") },
    },
  });
  const read = async (spec: string, purpose: "evaluation" | "calibration" = "evaluation") =>
    textOf(await readHubCorpus(spec, { client: clientOf(hub), purpose }));
  assert.equal(await read("org/set:default"), "test a\n\ntest b");
  assert.equal(await read("org/set:default", "calibration"), "train a\n\ntrain b");
  assert.equal(await read("org/set:default:train"), "train a\n\ntrain b");
  assert.equal(await read("org/set/extra/notes.txt"), "plain text\n");
  assert.equal(await read("org/set@main/test.jsonl"), "test a\n\ntest b");
  assert.equal(await read("org/one"), TEXTS.join("\n\n"));
  const refused: readonly [string, RegExp][] = [
    ["org/set:default:nothing", /no split "nothing", only "test", "train"/],
    ["org/set:nothing", /no configuration "nothing", only "default", "extra"/],
    ["org/set/extra/none.txt", /has no file "extra\/none\.txt"/],
    ["org/set/extra/content.jsonl.gz", /line 1 has no "text"/],
    ["org/set/extra/chat.jsonl", /line 1 has no messages/],
    ["org/one:default:train:body", /no column "body", only "id", "text"; name one/],
    ["org/one:default:train:id", /row 0 of .* has no text in "id"/],
    ["org/set:a:b:c:d", /no name of a dataset/],
  ];
  for (const [spec, message] of refused) {
    await assert.rejects(read(spec), (error) => {
      assert.ok(error instanceof RequestError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
  await assert.rejects(
    read("org/none"),
    (error) => error instanceof HubError && error.kind === "missing-repo",
  );
});

Deno.test("a dataset's chats are read from parquet and JSON lines, by its usual columns or one that is named", async () => {
  const chats = [1, 2].map((i) => ({ messages: [{ role: "user", content: `question ${i}` }] }));
  const lines = (rows: readonly unknown[]) => rows.map((row) => JSON.stringify(row)).join("\n");
  await using hub = await startHub({}, {
    repos: {
      "datasets/org/chat": { "data/train-00000-of-00001.parquet": golden("rows_chat.parquet") },
      "datasets/org/shared": { "data/train-00000-of-00001.parquet": golden("rows_shared.parquet") },
      "datasets/org/lines": {
        "train.jsonl": lines(chats),
        "test.jsonl": lines([{ chosen: chats[0]!.messages }]),
        "extra/mixed.jsonl": lines([...chats, { text: "three" }]),
      },
    },
  });
  const client = clientOf(hub);
  const read = async (spec: string) => {
    const corpus = await readHubCorpus(spec, { client, purpose: "calibration" });
    assert.ok(corpus.kind === "conversations");
    return corpus.conversations;
  };
  const chat = await read("org/chat");
  assert.deepEqual(chat.map(({ messages }) => messages), [
    [{ role: "user", content: "question 0" }, { role: "assistant", content: "answer 0 ü" }],
    // Fields that are null are no fields, and whole numbers of 64 bits are numbers.
    [
      { role: "user", content: "question 1" },
      { role: "assistant", tool_calls: [{ name: "add", arguments: { a: 1, b: 2 } }] },
    ],
    ...[2, 3, 4].map((i) => [
      { role: "user", content: `question ${i}` },
      { role: "assistant", content: `answer ${i} ü` },
    ]),
  ]);
  assert.equal(chat[4]!.where, 'row 4 of "data/train-00000-of-00001.parquet" of "org/chat"');
  assert.deepEqual((await read("org/shared"))[0]!.messages, [
    { role: "user", content: "q" },
    { role: "assistant", content: "a" },
  ]);
  assert.deepEqual(
    (await read("org/lines:default:train")).map(({ messages }) => messages),
    chats.map(({ messages }) => messages),
  );
  assert.deepEqual((await read("org/lines:default:test:chosen"))[0]!.messages, chats[0]!.messages);
  for (
    const [spec, message] of [
      ["org/lines:default:test", /line 1 has no "text", no "messages", no "conversations"/],
      ["org/lines/extra/mixed.jsonl", /line 3 has text and those before it have chats/],
      ["org/chat:default:train:text2", /has no column "text2", only "id", "messages"/],
      ["org/chat:default:train:id", /row 0 of .* has no text in "id"/],
    ] as const
  ) {
    await assert.rejects(
      read(spec),
      (error) => error instanceof RequestError && message.test(error.message),
      spec,
    );
  }
});

Deno.test("of a large dataset of chats the first are used, and an event says so", async () => {
  const messages = [{ role: "user", content: "x".repeat(2 ** 20) }];
  const rows = Array.from({ length: 40 }, () => JSON.stringify({ messages })).join("\n");
  await using hub = await startHub({}, {
    repos: { "datasets/org/large": { "train.jsonl": rows } },
  });
  const events: Event[] = [];
  const corpus = await readHubCorpus("org/large", {
    client: clientOf(hub),
    purpose: "calibration",
    report: (event) => events.push(event),
  });
  assert.ok(corpus.kind === "conversations" && corpus.conversations.length === 16);
  assert.match(JSON.stringify(events), /corpus-cut.*first 16 rows/);
});

Deno.test("a dataset that only a program reads is taken from the Hub's own conversion", async () => {
  await using hub = await startHub({}, {
    repos: { "datasets/org/script": { "script.py": "print()", "README.md": "" } },
  });
  const client = clientOf(hub);
  const read = async () =>
    textOf(await readHubCorpus("org/script", { client, purpose: "evaluation" }));
  await assert.rejects(read(), /has no parquet, JSON, CSV or text file/);
  hub.repo("datasets/org/script").commit({
    branch: "refs/convert/parquet",
    files: { "default/test/0000.parquet": golden("rows_zstd.parquet") },
  });
  assert.equal(await read(), TEXTS.join("\n\n"));
});

Deno.test("files that are damaged are refused, not read as something else", async () => {
  const parquet = golden("rows_snappy.parquet");
  const broken = parquet.slice();
  broken.fill(0, 100, 400);
  await using hub = await startHub({}, {
    repos: {
      "datasets/org/bad": {
        "a/cut.parquet": parquet.slice(0, 900),
        "b/broken.parquet": broken,
        "c/cut.jsonl.gz": Uint8Array.from(gzipSync(jsonl(TEXTS))).slice(0, 200),
        "d/latin.txt": Uint8Array.of(0x66, 0xfc, 0x72),
        "e/lines.jsonl": '{"text":"a"}\n{"text":\n',
        "f/empty.jsonl": "\n\n",
      },
    },
  });
  for (
    const [path, message] of [
      ["a/cut.parquet", /no parquet file that can be read/],
      ["b/broken.parquet", /no parquet file that can be read/],
      ["c/cut.jsonl.gz", /damaged, or not UTF-8/],
      ["d/latin.txt", /is not UTF-8/],
      ["e/lines.jsonl", /line 2 is not JSON/],
      ["f/empty.jsonl", /has no rows/],
    ] as const
  ) {
    await assert.rejects(
      readHubCorpus(`org/bad/${path}`, { client: clientOf(hub), purpose: "evaluation" }),
      (error) => {
        assert.ok(error instanceof RequestError, String(error));
        assert.match(error.message, message);
        return true;
      },
    );
  }
});

Deno.test("of a large dataset the first rows are used, and an event says so", async () => {
  const row = "x".repeat(2 ** 20);
  await using hub = await startHub({}, {
    repos: { "datasets/org/large": { "train.jsonl": jsonl(Array(40).fill(row)) } },
  });
  const events: Event[] = [];
  const text = textOf(
    await readCorpus("org/large", {
      disk,
      purpose: "calibration",
      hub: clientOf(hub),
      report: (event) => events.push(event),
    }),
  );
  assert.equal(text.length, 16 * row.length + 15 * 2);
  assert.match(JSON.stringify(events), /corpus-cut.*first 16 rows/);
});

Deno.test("a file of this machine comes before a dataset of that name, and a path that is wrong is no dataset", async () => {
  await using hub = await startHub({}, { repos: {} });
  const client = clientOf(hub);
  const options = { disk, purpose: "evaluation" as const, hub: client };
  const folder = await Deno.makeTempDir({ dir: ".", prefix: "corpus_" });
  await Deno.writeTextFile(`${folder}/text`, "of this machine");
  const spec = `${folder.replace(/^\.\//, "").split("/").at(-1)}/text`;
  assert.equal(textOf(await readCorpus(spec, options)), "of this machine");
  await Deno.remove(folder, { recursive: true });
  for (const wrong of ["texts/none.txt", "/none/x", "./none/x", "none.jsonl"]) {
    await assert.rejects(readCorpus(wrong, options), /there is no such file/);
  }
  assert.deepEqual(hub.log, []);
  await assert.rejects(
    readCorpus("wikitext2", { disk, purpose: "evaluation" }),
    /it is on the Hub, which was not given/,
  );
});

Deno.test("findSplit() knows the layouts of the Hub", () => {
  const files = (...paths: string[]) => paths.map((path) => ({ path }) as HubFile);
  const find = (
    paths: string[],
    { config, split, purpose = "evaluation" as const }: {
      config?: string;
      split?: string;
      purpose?: "evaluation";
    } = {},
  ) => {
    const found = findSplit(files(...paths), { config, split, purpose });
    return typeof found === "string" ? found : found.map(({ path }) => path);
  };
  const sharded = ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"];
  assert.deepEqual(find(sharded), sharded.toReversed());
  assert.deepEqual(
    find(["a/test-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"], {
      config: "b",
    }),
    ["b/test-00000-of-00001.parquet"],
  );
  assert.match(String(find(["a/test.parquet", "b/test.parquet"])), /several configurations/);
  assert.deepEqual(find(["en/partial-train/0000.parquet", "en/validation/0000.parquet"]), [
    "en/validation/0000.parquet",
  ]);
  assert.deepEqual(find(["valid.jsonl", "train.jsonl", "dataset_infos.json"]), ["valid.jsonl"]);
  assert.deepEqual(find(["x/everything.jsonl"]), ["x/everything.jsonl"]);
  assert.equal(find(["README.md", "x.py"]), "it has no parquet, JSON, CSV or text file");
});

Deno.test("parseDatasetSpec() tells repositories, files and paths of this machine apart", () => {
  const of = (spec: string) => {
    const found = parseDatasetSpec(spec, "evaluation");
    return found && [found.repo.id, found.repo.revision, found.file ?? null, found.config ?? null];
  };
  assert.deepEqual(of("org/set"), ["org/set", undefined, null, null]);
  assert.deepEqual(of("org/set@refs/pr/2:cfg"), ["org/set", "refs/pr/2", null, "cfg"]);
  assert.deepEqual(of("org/set@v1/a/b.txt"), ["org/set", "v1", "a/b.txt", null]);
  assert.deepEqual(of("hf://datasets/org/set/b.txt"), ["org/set", undefined, "b.txt", null]);
  const address = "https://huggingface.co/datasets/org/set";
  assert.deepEqual(of(address), of("org/set"));
  assert.deepEqual(of(`${address}/tree/main`), of("org/set@main"));
  for (const none of ["set", "org/", "texts/a.txt", "/a/b", "./a/b/c", "../a/b", "a.jsonl", ""]) {
    assert.equal(of(none), undefined, none);
  }
});
