/**
 * Files that a run writes at its end are tried before it begins; a flag is given once; permissions
 * are asked for where they will do.
 */
import assert from "node:assert/strict";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import type { Flag } from "../../src/terminal/command.ts";
import { COMMANDS } from "../../src/terminal/commands/mod.ts";
import { parseArguments } from "../../src/terminal/parser.ts";
import { inFolder, keeper, names, sluice } from "./host.ts";

const HOST = { colors: false, out: keeper(), version: "0" };

/** Whether the system holds this user to the rights of files. */
async function isHeldToRights(): Promise<boolean> {
  if (Deno.build.os === "windows") return false;
  const path = await Deno.makeTempFile({ prefix: "sluice_rights_" });
  await Deno.chmod(path, 0o400);
  try {
    await Deno.writeTextFile(path, "x");
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.PermissionDenied) return true;
    throw error;
  } finally {
    await Deno.remove(path);
  }
}

const HELD = await isHeldToRights();

for (const flag of ["metrics", "timeline", "log-file"]) {
  Deno.test(`--${flag} is tried before anything is read, and leaves nothing`, () =>
    inFolder(async (folder) => {
      await Deno.mkdir(`${folder}/folder`);
      await Deno.writeTextFile(`${folder}/file`, "mine");
      const cases: [path: string, code: number, says: RegExp][] = [
        [`${folder}/none/x`, 1, /there is no folder ".*\/none"\. Make it, or give another place\./],
        [`${folder}/file/x`, 1, /there is no folder ".*\/file"/],
        [`${folder}/folder`, 1, /it is a folder\. Give the name of a file\./],
        [`${folder}/out/x`, 1, /the checkpoint goes there, which is published as it is/],
      ];
      if (HELD) {
        await Deno.mkdir(`${folder}/locked`, { mode: 0o500 });
        await Deno.writeTextFile(`${folder}/read-only`, "", { mode: 0o400 });
        cases.push([`${folder}/locked/x`, 5, /permission is denied/]);
        cases.push([`${folder}/read-only`, 5, /permission is denied/]);
      }
      const before = names(folder);
      for (const [path, code, says] of cases) {
        // The model is not there: whoever looks for it first would say so.
        const words = ["quantize", `${folder}/no-model`, "--output", `${folder}/out`];
        const outcome = await sluice([...words, `--${flag}`, path]);
        assert.equal(outcome.code, code, outcome.err);
        assert.match(outcome.err, says);
        assert.match(outcome.err, /^sluice: Cannot (?:write|use --[\w-]+) "[^\n]+\n$/);
        assert.deepEqual(names(folder), before);
      }
      const same = [`--${flag}`, `${folder}/m`, flag === "metrics" ? "--timeline" : "--metrics"];
      const twice = await sluice(
        ["quantize", "sample", "--output", `${folder}/out`, ...same, `${folder}/folder/../m`],
      );
      assert.match(twice.err, /^sluice: Cannot use --[\w-]+ "[^"]*": --[\w-]+ names the same file/);
      assert.deepEqual(names(folder), before);
    }));
}

Deno.test("a path that can be written is left as it was until the end", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/m.csv`, "mine");
    const words = ["quantize", `${folder}/no-model`, "--output", `${folder}/out`];
    const { code } = await sluice(
      [...words, "--metrics", `${folder}/m.csv`, "--timeline", `${folder}/t.svg`],
    );
    assert.equal(code, 1);
    assert.deepEqual(names(folder), ["m.csv"]);
    assert.equal(await Deno.readTextFile(`${folder}/m.csv`), "mine");
  }));

Deno.test({
  name: "a report's folder that cannot be written to is told before anything is read",
  ignore: !HELD,
  fn: () =>
    inFolder(async (folder) => {
      const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
      await Deno.rename(model, `${folder}/model`);
      const words = ["quantize", `${folder}/model`, "--scheme", "W8A16", "--device", "wasm"];
      const report = ["--report", `${folder}/report`];
      const made = await sluice([...words, ...report, "--output", `${folder}/a`]);
      assert.equal(made.code, 0, made.err);
      await Deno.chmod(`${folder}/report/report.csv`, 0o400);
      const again = await sluice([...words, ...report, "--output", `${folder}/b`, "--quiet"]);
      assert.equal(again.code, 5);
      assert.match(again.err, /^sluice: Cannot write ".*report\.csv": permission is denied/);
      assert.deepEqual(names(folder), ["a", "model", "report"]);
    }),
});

/** A value that a flag takes. */
function valueOf({ type, choices, min }: Flag): string[] {
  if (type === "boolean") return [];
  if (choices) return [choices[0]!];
  if (type === "string") return ["x"];
  return [type === "bytes" ? "5GB" : String(min ?? 1)];
}

for (const row of COMMANDS) {
  Deno.test(`${row.name} refuses every flag that is given twice, but for those that may be`, async () => {
    const command = await row.load();
    const parse = (words: readonly string[]) =>
      parseArguments(
        [row.name, ...command.arguments.map(() => "x"), ...words],
        COMMANDS,
        HOST,
      );
    for (const flag of command.flags) {
      const once = [`--${flag.name}`, ...valueOf(flag)];
      await parse(once);
      if (flag.repeat) {
        await parse([...once, ...once]);
        continue;
      }
      const said = once.join(" ").replaceAll("-", "\\-");
      await assert.rejects(
        parse([...once, ...once]),
        new RegExp(`Cannot use ${said} twice: say it once\\.`),
        once.join(" "),
      );
      if (flag.type === "boolean" && flag.default !== false) {
        await assert.rejects(
          parse([`--${flag.name}`, `--no-${flag.name}`]),
          new RegExp(`Cannot use --${flag.name} and --no-${flag.name} together`),
        );
      }
    }
  });
}

Deno.test("two values of one flag are told apart, and a letter is the flag it stands for", async () => {
  for (
    const [words, says] of [
      [
        ["--scheme", "W4A16", "--scheme", "NF4"],
        /--scheme W4A16 and --scheme NF4 together: say one/,
      ],
      [["-o", "a", "--output", "b"], /--output a and --output b together/],
      [["--metrics", "--metrics", "m.csv"], /--metrics and --metrics m\.csv together/],
    ] as const
  ) {
    const { code, err } = await sluice(["quantize", "sample", ...words]);
    assert.equal(code, 1);
    assert.match(err, says);
  }
});
