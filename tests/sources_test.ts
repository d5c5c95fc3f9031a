/**
 * Checkpoints on disk: which files of a folder are taken, what is read from them, and what a file
 * that changes meets.
 */
import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { CheckpointError, RequestError, SpaceError } from "../src/errors.ts";
import { disk } from "../src/io/disk.ts";
import { checkFileName, checkRelativePath, nameKey } from "../src/io/names.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { isCompanion } from "../src/sources/companions.ts";
import { SAMPLE_CALIBRATION, SAMPLE_MODEL, SAMPLE_VALIDATION } from "../src/sources/sample.ts";
import { byteLength } from "../src/tensor.ts";
import { counting, headerOf, safetensorsFile } from "./memory.ts";

const encoder = new TextEncoder();

/** Run a test in a folder with these files. */
async function withFolder(
  files: Readonly<Record<string, string | Uint8Array>>,
  test: (folder: string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "sluice_source_" });
  try {
    for (const [path, content] of Object.entries(files)) {
      const place = `${folder}/${path}`;
      await Deno.mkdir(place.slice(0, place.lastIndexOf("/")), { recursive: true });
      await Deno.writeFile(place, typeof content === "string" ? encoder.encode(content) : content);
    }
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const A = counting("a", "f32", [2, 3], 1);
const B = counting("b", "bf16", [4, 5], 50);
const INDEX = JSON.stringify({
  metadata: { total_size: 64 },
  weight_map: { a: "x.safetensors", b: "y.safetensors" },
});

Deno.test("the sample opens: its tensors, shards, configuration and tokenizer", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  assert.equal(source.config.model_type, "llama");
  assert.match(source.configText!, /"rms_norm_eps": 1e-05/);
  assert.deepEqual(new Set(source.fileOf.values()).size, 3);
  let parameters = 0;
  for (const tensor of source.tensors.values()) parameters += byteLength(tensor) / 2;
  assert.equal(parameters, 4_065_536);
  assert.deepEqual([...source.files.keys()], [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  const tokenizer = await source.readFile("tokenizer.json");
  assert.equal(tokenizer.length, source.files.get("tokenizer.json")!.size);
  JSON.parse(new TextDecoder().decode(tokenizer));
  for (const text of [SAMPLE_CALIBRATION, SAMPLE_VALIDATION]) {
    assert.ok((await Deno.readTextFile(text)).length > 100_000);
  }
});

Deno.test("tensors come in the order of file name, then place, and read() gives their bytes", async () => {
  await using source = await openCheckpoint(SAMPLE_MODEL);
  const files = [...source.tensors.keys()].map((name) => source.fileOf.get(name)!);
  assert.deepEqual(files, files.toSorted());
  for (const file of new Set(files)) {
    const whole = await Deno.readFile(new URL(file, SAMPLE_MODEL));
    const header = headerOf(whole);
    const names = [...source.tensors.keys()].filter((name) => source.fileOf.get(name) === file);
    assert.deepEqual(names, header.tensors.map(({ name }) => name));
    for (const { name, begin, end } of header.tensors) {
      assert.deepEqual(await source.read(name), whole.slice(begin, end));
    }
  }
});

Deno.test("read() gives rows, also many at once and in any order", async () => {
  const packed = counting("p", "f4", [4, 4], 9);
  const scalar = counting("s", "f64", [], 3);
  await withFolder({ "m.safetensors": safetensorsFile([A, B, packed, scalar]) }, async (folder) => {
    await using source = await openCheckpoint(`${folder}/m.safetensors`, { asStored: true });
    const spans = [[3, 4], [0, 2], [1, 4], [2, 2], [0, 4]] as const;
    const parts = await Promise.all(spans.map(([from, to]) => source.read("b", { from, to })));
    for (const [i, [from, to]] of spans.entries()) {
      assert.deepEqual(parts[i], B.bytes.slice(from * 10, to * 10));
    }
    assert.deepEqual(await source.read("a", { from: 1, to: 2 }), A.bytes.slice(12));
    assert.deepEqual(await source.read("p", { from: 1, to: 3 }), packed.bytes.slice(2, 6));
    assert.deepEqual(await source.read("s", { from: 0, to: 1 }), scalar.bytes);
    for (
      const rows of [{ from: -1, to: 1 }, { from: 2, to: 1 }, { from: 0, to: 5 }, {
        from: 0.5,
        to: 1,
      }]
    ) {
      await assert.rejects(async () => await source.read("b", rows), RangeError);
    }
    await assert.rejects(async () => await source.read("c"), /no such tensor/);
    await assert.rejects(source.readFile("../x"), RangeError);
  });
});

Deno.test("read() refuses rows of 4-bit elements that do not begin at whole bytes", async () => {
  const odd = counting("p", "f4", [4, 3]);
  await withFolder({ "m.safetensors": safetensorsFile([odd]) }, async (folder) => {
    await using source = await openCheckpoint(folder);
    await assert.rejects(
      async () => await source.read("p", { from: 1, to: 2 }),
      /a row has 12 bits/,
    );
    assert.deepEqual(await source.read("p", { from: 2, to: 4 }), odd.bytes.slice(3));
  });
});

Deno.test("a folder is opened by an index, by its only file, or as the union of its shards", async () => {
  const x = safetensorsFile([A]), y = safetensorsFile([B]);
  const layouts: Record<string, Uint8Array | string>[] = [
    { "x.safetensors": x, "y.safetensors": y },
    { "x.safetensors": x, "y.safetensors": y, "model.safetensors.index.json": INDEX },
    {
      "x.safetensors": x,
      "y.safetensors": y,
      "diffusion_pytorch_model.safetensors.index.json": INDEX,
    },
    { "model-00001-of-00002.safetensors": x, "model-00002-of-00002.safetensors": y },
    { "anything.safetensors": safetensorsFile([A, B]) },
    { "y.safetensors": safetensorsFile([B, A]), "consolidated.safetensors": safetensorsFile([A]) },
  ];
  for (const files of layouts) {
    await withFolder(files, async (folder) => {
      await using source = await openCheckpoint(folder);
      assert.deepEqual([...source.tensors.keys()].sort(), ["a", "b"]);
      assert.deepEqual(await source.read("b"), B.bytes);
      assert.deepEqual(source.config, {});
      assert.equal(source.configText, undefined);
    });
  }
});

Deno.test("model.safetensors is taken alone, as transformers does, and an index leaves other files out", async () => {
  await withFolder({
    "model.safetensors": safetensorsFile([A]),
    "model.safetensors.index.json": INDEX,
    "y.safetensors": safetensorsFile([B]),
  }, async (folder) => {
    await using source = await openCheckpoint(folder);
    assert.deepEqual([...source.tensors.keys()], ["a"]);
  });
  await withFolder({
    "x.safetensors": safetensorsFile([A]),
    "y.safetensors": safetensorsFile([B, counting("extra", "u8", [1])]),
    "stale.safetensors": safetensorsFile([counting("a", "u8", [1])]),
    "model.safetensors.index.json": INDEX,
  }, async (folder) => {
    await using source = await openCheckpoint(folder + "/");
    // A shard's tensor that the index forgot is there for every loader, so it is here too.
    assert.deepEqual([...source.tensors.keys()].sort(), ["a", "b", "extra"]);
  });
});

Deno.test("a file: URL opens, another URL is refused", async () => {
  await withFolder({ "m o%d.safetensors": safetensorsFile([A]) }, async (folder) => {
    await using source = await openCheckpoint(pathToFileURL(`${folder}/m o%d.safetensors`));
    assert.deepEqual(await source.read("a"), A.bytes);
  });
  await assert.rejects(openCheckpoint(new URL("https://example.org/x")), RequestError);
});

Deno.test("the Hugging Face cache's links to blobs are followed", async () => {
  const file = safetensorsFile([A]);
  const hash = "4d7a2146";
  await withFolder(
    { [`blobs/${hash}`]: file, "blobs/t": "{}", "snapshots/abc/config.json": "{}" },
    async (root) => {
      const folder = `${root}/snapshots/abc`;
      await Deno.symlink(`../../blobs/${hash}`, `${folder}/model.safetensors`);
      await Deno.symlink("../../blobs/t", `${folder}/tokenizer.json`);
      await using source = await openCheckpoint(folder);
      assert.deepEqual(await source.read("a"), A.bytes);
      assert.deepEqual(await source.readFile("tokenizer.json"), encoder.encode("{}"));
    },
  );
});

Deno.test("the id is of the content: the same for a copy, another for other headers, configurations or names", async () => {
  const ids: string[] = [];
  const variants: Record<string, string | Uint8Array>[] = [
    { "model.safetensors": safetensorsFile([A]), "config.json": "{}" },
    { "model.safetensors": safetensorsFile([A]), "config.json": "{}" },
    { "model.safetensors": safetensorsFile([A]), "config.json": "{ }" },
    { "model.safetensors": safetensorsFile([A]) },
    { "model.safetensors": safetensorsFile([{ ...A, name: "c" }]), "config.json": "{}" },
    { "other.safetensors": safetensorsFile([A]), "config.json": "{}" },
  ];
  for (const files of variants) {
    await withFolder(files, async (folder) => {
      await using source = await openCheckpoint(folder);
      assert.match(source.id, /^[0-9a-f]{64}$/);
      ids.push(source.id);
    });
  }
  assert.equal(ids[0], ids[1]);
  assert.equal(new Set(ids).size, ids.length - 1);
});

Deno.test("of a tensor that is in several shards the index says which is meant; without one it is refused", async () => {
  const other = { ...A, bytes: A.bytes.map((byte) => byte ^ 1) };
  const files = {
    "x.safetensors": safetensorsFile([A]),
    "y.safetensors": safetensorsFile([other, B]),
  };
  await withFolder({ ...files, "model.safetensors.index.json": INDEX }, async (folder) => {
    await using source = await openCheckpoint(folder);
    assert.deepEqual(await source.read("a"), A.bytes);
    assert.deepEqual([...source.fileOf], [["a", "x.safetensors"], ["b", "y.safetensors"]]);
  });
  await withFolder(files, async (folder) => {
    await assert.rejects(
      openCheckpoint(folder),
      (error) =>
        error instanceof CheckpointError &&
        /"y\.safetensors": tensor "a" is also in "x\.safetensors"/.test(error.message),
    );
  });
});

Deno.test("an address that is none of the Hub is called so, not a path", async () => {
  await assert.rejects(
    openCheckpoint("https://elsewhere/org/name"),
    (error) =>
      error instanceof RequestError && /no address of a model on the Hub/.test(error.message),
  );
});

Deno.test("config.json keeps odd keys as data, and lets a key come twice as loaders do", async () => {
  await withFolder({
    "model.safetensors": safetensorsFile([A]),
    "config.json": '{"__proto__":{"x":1},"a":1,"a":2,"b":1e-05,"c":6.0}',
  }, async (folder) => {
    await using source = await openCheckpoint(folder);
    assert.equal(source.config.a, 2);
    assert.equal(source.config.x, undefined);
    assert.ok(Object.hasOwn(source.config, "__proto__"));
    assert.match(source.configText!, /"c":6\.0/);
  });
});

Deno.test("what belongs to a model travels along, what does not stays", async () => {
  const carried = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENCE.txt",
    "NOTICE",
    "USE_POLICY.md",
  ];
  const left = [
    "config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "x.pth",
    "x.gguf",
    "x.onnx",
    "README.md",
    ".gitattributes",
    "modeling_x.py",
    "LICENSE.py",
    "quantize_config.json",
    "trainer_state.json",
    "training_args.bin",
    "logo.png",
  ];
  for (const name of carried) assert.ok(isCompanion(name), name);
  for (const name of left) assert.ok(!isCompanion(name), name);
  const files = Object.fromEntries([...carried, ...left].map((name) => [name, "{}"]));
  await withFolder({
    ...files,
    "model.safetensors": safetensorsFile([A]),
    "additional_chat_templates/tool.jinja": "x",
    "additional_chat_templates/tool.py": "x",
    "original/params.json": "{}",
    "tokenizer/tokenizer.json": "{}",
  }, async (folder) => {
    await using source = await openCheckpoint(folder);
    assert.deepEqual(
      [...source.files.keys()].sort(),
      [...carried, "additional_chat_templates/tool.jinja"].sort(),
    );
  });
});

Deno.test("a file that shrinks, grows or is written to while open is refused", async () => {
  const changes: ((path: string) => Promise<void>)[] = [
    (path) => Deno.truncate(path, 100),
    (path) => Deno.writeFile(path, new Uint8Array(1), { append: true }),
    (path) => Deno.utime(path, 1, 1),
  ];
  for (const change of changes) {
    await withFolder({ "model.safetensors": safetensorsFile([A, B]) }, async (folder) => {
      await using source = await openCheckpoint(folder);
      await source.read("b");
      await change(`${folder}/model.safetensors`);
      await assert.rejects(
        source.read("b"),
        (error) =>
          error instanceof CheckpointError && /changed while it was in use/.test(error.message),
      );
    });
  }
});

Deno.test("a file that is replaced by another while open is read as it was", async () => {
  await withFolder({ "model.safetensors": safetensorsFile([A]) }, async (folder) => {
    await using source = await openCheckpoint(folder);
    await Deno.writeFile(`${folder}/new`, safetensorsFile([counting("a", "f32", [2, 3], 99)]));
    await Deno.rename(`${folder}/new`, `${folder}/model.safetensors`);
    assert.deepEqual(await source.read("a"), A.bytes);
  });
});

Deno.test("a disk that fails while a checkpoint is opened leaves no file open", async () => {
  await withFolder(
    { "x.safetensors": safetensorsFile([A]), "y.safetensors": safetensorsFile([B]) },
    async (folder) => {
      let opened = 0, closed = 0;
      const failing: typeof disk = {
        ...disk,
        async open(path) {
          if (path.endsWith("y.safetensors")) throw new SpaceError("Broken.", { path });
          const reader = await disk.open(path);
          opened++;
          return {
            size: reader.size,
            read: (begin, end) => reader.read(begin, end),
            async [Symbol.asyncDispose]() {
              closed++;
              await reader[Symbol.asyncDispose]();
            },
          };
        },
      };
      await assert.rejects(openCheckpoint(folder, { disk: failing }), SpaceError);
      assert.deepEqual([opened, closed], [1, 1]);
    },
  );
});

Deno.test("maxHeaderBytes lets a longer or only a shorter header pass", async () => {
  await withFolder({ "model.safetensors": safetensorsFile([A]) }, async (folder) => {
    await assert.rejects(
      openCheckpoint(folder, { maxHeaderBytes: 16 }),
      /88 B, more than the 16 B that are accepted/,
    );
    await using source = await openCheckpoint(folder, { maxHeaderBytes: 100_000_000 });
    assert.equal(source.tensors.size, 1);
  });
});

Deno.test("names of files that could lead out of a folder are refused, plain ones are not", () => {
  for (
    const name of [
      "a.safetensors",
      "model-00001-of-00002.safetensors",
      "ä ö.json",
      "100%.txt",
      "a%zz",
      ".x",
    ]
  ) {
    assert.equal(checkFileName(name), true, name);
    assert.equal(checkRelativePath(`sub/${name}`), true, name);
  }
  const hostile = [
    "",
    ".",
    "..",
    "/a",
    "a/",
    "a//b",
    "./a",
    "a/../b",
    "..\\a",
    "C:\\a",
    "C:a",
    "\\\\host\\a",
    "%2e%2e",
    "%2E%2e/a",
    "%252e%252e",
    "..%2fa",
    "a%00",
    "a\u0000",
    "a\n",
    "a\u007f",
    "a.",
    "a ",
    "CON",
    "con.txt",
    "LPT1.json",
    "aux.",
    "\ud800",
    "x".repeat(256),
    "ä".repeat(128),
    "file:a",
    "a:stream",
    "%2fetc",
    "sub/%2e%2e/x",
  ];
  for (const name of hostile) {
    assert.notEqual(checkRelativePath(name), true, JSON.stringify(name));
    assert.notEqual(checkFileName(name), true, JSON.stringify(name));
  }
  assert.notEqual(checkFileName("a/b"), true);
  assert.equal(nameKey("Ä.JSON"), nameKey("a\u0308.json"));
});
