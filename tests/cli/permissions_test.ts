/**
 * The least permissions of README.md: with exactly those its commands run, and without any one of
 * them they end with a sentence that names it.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { blocks } from "../readme_given.ts";
import { inFolder, names } from "./host.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const SAMPLE = fileURLToPath(new URL("../../sample/", import.meta.url));

const LINES = blocks("sh").flatMap((text) => text.split("\n"))
  .filter((line) => line.startsWith("deno run --no-prompt --allow-"))
  .map((line) => line.split(" "));

/** Run a line of the README in a folder, and tell what was asked of Deno meanwhile. */
async function runLine(
  folder: string,
  words: readonly string[],
): Promise<{ readonly code: number; readonly err: string; readonly asked: ReadonlySet<string> }> {
  const audit = `${await Deno.makeTempFile({ prefix: "sluice_audit_" })}`;
  try {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [...words.slice(1).map((word) => word === "cli.ts" ? CLI : word), "--device", "wasm"]
        .filter((_, i, all) => !(words.includes("verify") && i >= all.length - 2)),
      cwd: folder,
      env: { DENO_AUDIT_PERMISSIONS: audit },
      stdout: "null",
    }).output();
    const asked = (await Deno.readTextFile(audit)).split("\n").filter((line) => line !== "")
      .map((line) => (JSON.parse(line) as { permission: string }).permission);
    return { code, err: new TextDecoder().decode(stderr), asked: new Set(asked) };
  } finally {
    await Deno.remove(audit);
  }
}

/** The same words with a permission, or one path of it, left out. */
function* withoutOne(words: readonly string[]): Generator<readonly [string, readonly string[]]> {
  for (const [i, word] of words.entries()) {
    const [, flag, paths] = /^(--allow-\w+)=(.*)$/.exec(word) ?? [];
    if (flag === undefined) continue;
    for (const path of paths!.split(",")) {
      const left = paths!.split(",").filter((other) => other !== path);
      yield [
        `${flag}=${path}`,
        words.flatMap((other, j) => i !== j ? [other] : left.length ? [`${flag}=${left}`] : []),
      ];
    }
  }
}

Deno.test("the README's commands need each permission that they are given, and no other", () =>
  inFolder(async (folder) => {
    assert.equal(LINES.length, 3);
    await Deno.mkdir(`${folder}/models/original`, { recursive: true });
    for (const name of names(`${SAMPLE}model`)) {
      await Deno.copyFile(`${SAMPLE}model/${name}`, `${folder}/models/original/${name}`);
    }
    await Deno.copyFile(`${SAMPLE}corpus/validation.txt`, `${folder}/text.txt`);
    for (const words of LINES) {
      for (const [missing, fewer] of withoutOne(words)) {
        const { code, err } = await runLine(folder, fewer);
        assert.equal(code, 1, `${words.join(" ")} without ${missing}: ${err}`);
        assert.match(
          err,
          /^sluice: Deno does not allow \w+ access to [^\n]*: add --allow-\w+=[^\n]* after "deno run"\.\n$/m,
        );
        assert.match(err, new RegExp(`add ${missing.split("=")[0]}=`));
        assert.ok(!names(`${folder}/models`).includes("nf4") || !words.includes("quantize"));
      }
      const { code, err, asked } = await runLine(folder, words);
      assert.equal(code, 0, err);
      assert.deepEqual([...asked].filter((name) => ["net", "run", "ffi"].includes(name)), []);
    }
    assert.deepEqual(names(`${folder}/models`), ["nf4", "original"]);
  }));
