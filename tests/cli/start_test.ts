/** What the program loads to answer: what few commands use comes with its first use. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { findDevice } from "../../src/open.ts";

const PROGRAM = fileURLToPath(new URL("loaded_packages.ts", import.meta.url));

/** How many scripts of each package, and of each folder of src, a command line loads. */
async function loaded(words: readonly string[]): Promise<Readonly<Record<string, number>>> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", PROGRAM, ...words],
    stdout: "null",
  }).output();
  const text = new TextDecoder().decode(stderr);
  assert.ok(success, text);
  return JSON.parse(text.split("\n").at(-1)!);
}

/**
 * The packages whose code was run. Of one of CommonJS that is imported and was not used yet there
 * is one script, which would load it.
 */
function used(counts: Readonly<Record<string, number>>): string[] {
  const small = ["pretty-bytes", "picomatch", "fastest-levenshtein"];
  const deferred = ["yaml", "cli-table3", "cli-progress"];
  return Object.keys(counts).filter((name) =>
    !small.includes(name) && !name.startsWith("src/") &&
    !(deferred.includes(name) && counts[name] === 1)
  ).sort();
}

const TABLE = [
  "ansi-regex",
  "cli-table3",
  "emoji-regex",
  "is-fullwidth-code-point",
  "string-width",
  "strip-ansi",
];

/** Folders of what only a run, a walk or the Hub needs. */
const WORK = ["src/calibration", "src/forward", "src/publish", "src/run", "src/sinks"] as const;

for (
  const [words, packages, folders] of [
    [["--help"], ["commander"], [...WORK, "src/ops", "src/backends", "src/plan", "src/hub"]],
    [["--version"], ["commander"], [...WORK, "src/ops", "src/backends", "src/plan", "src/hub"]],
    [["plan", "sample", "--scheme", "NF4"], ["commander", ...TABLE], WORK],
    [["plan", "sample"], ["@huggingface/tokenizers", "commander", ...TABLE], WORK],
  ] as const
) {
  Deno.test(`sluice ${words.join(" ")} loads no package and no folder that it does not use`, async () => {
    const counts = await loaded(words);
    assert.deepEqual(used(counts), [...packages].sort());
    assert.deepEqual(folders.filter((folder) => folder in counts), []);
    assert.ok("src/terminal" in counts, "folders are counted");
  });
}

Deno.test("a device that is found and not opened starts no thread and opens no library", async () => {
  const calls: string[] = [];
  const { Worker, Deno: { dlopen } } = globalThis;
  globalThis.Worker = class extends Worker {
    constructor(...given: ConstructorParameters<typeof Worker>) {
      super(...given);
      calls.push("thread");
    }
  };
  Object.assign(Deno, {
    dlopen(library: string, symbols: Deno.ForeignLibraryInterface) {
      calls.push("library");
      return dlopen(library, symbols);
    },
  });
  try {
    await using device = await findDevice("wasm", { threads: 3 });
    assert.equal(device.limits.name, "wasm");
    assert.equal(calls.join(), "");
    const backend = await device.open();
    assert.equal(calls.filter((call) => call === "thread").length, 2);
    assert.ok(calls.includes("library"));
    assert.equal(await device.open(), backend);
    const { memoryBytes, sliceBytes, maxTensorBytes, productRows, matrixPlaces } = device.limits;
    assert.deepEqual(
      { memoryBytes, sliceBytes, maxTensorBytes, productRows, matrixPlaces },
      {
        memoryBytes: backend.memoryBytes,
        sliceBytes: backend.sliceBytes,
        maxTensorBytes: backend.maxTensorBytes,
        productRows: backend.productRows,
        matrixPlaces: backend.matrixPlaces,
      },
    );
  } finally {
    Object.assign(globalThis, { Worker });
    Object.assign(Deno, { dlopen });
  }
});
