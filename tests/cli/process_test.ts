/** The program as a process: exit codes, signals, pipes, a terminal of its own, and what Deno has to allow it. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import denoJson from "../../deno.json" with { type: "json" };
import { inFolder, names } from "./host.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const SAMPLE = fileURLToPath(new URL("../../sample/", import.meta.url));
const LONG = ["--evaluate", "--seq-len", "512", "--num-samples", "64", "--device", "wasm"];

/** Whether a program can be run here. */
async function has(program: string): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

const SCRIPT = await has("script");

/** Run `deno run` with these permissions and words. */
async function spawn(
  permissions: readonly string[],
  words: readonly string[],
  options: Deno.CommandOptions = {},
): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", ...permissions, CLI, ...words],
    ...options,
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, out: out!, err: err! };
}

Deno.test("a process needs no permission to tell its version", async () => {
  assert.deepEqual(await spawn([], ["--version"]), {
    code: 0,
    out: `${denoJson.version}\n`,
    err: "",
  });
});

Deno.test("asking the driver for GPUs prints nothing, though XDG_RUNTIME_DIR is not set", () =>
  inFolder(async (folder) => {
    const { XDG_RUNTIME_DIR: _, ...env } = Deno.env.toObject();
    for (
      const words of [
        ["devices"],
        ["plan", "sample", "--scheme", "NF4"],
        ["quantize", "sample", "--scheme", "NF4", "--quiet", "--output", `${folder}/out`],
      ]
    ) {
      const { code, err } = await spawn(["-A"], words, { clearEnv: true, env });
      assert.deepEqual([words[0], code, err], [words[0], 0, ""]);
    }
  }));

Deno.test("in a pipe, progress is plain lines on standard error and the result is on standard output", () =>
  inFolder(async (folder) => {
    const words = ["quantize", "sample", "--scheme", "NF4", "--output", `${folder}/out`];
    const { code, out, err } = await spawn(["-A"], [...words, "--device", "wasm"]);
    assert.equal(code, 0, err);
    assert.match(err, /^sluice: 100 %/m);
    assert.match(out, /^bits per weight +4\.2/m);
    // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
    assert.doesNotMatch(out + err, /[\u001b\r]/);
  }));

Deno.test({
  name: "on a terminal, there is a bar with the time left; NO_COLOR takes its colour",
  ignore: !SCRIPT,
  fn: () =>
    inFolder(async (folder) => {
      for (const color of [true, false]) {
        const words = [
          "quantize",
          "sample",
          "--output",
          `${folder}/out-${color}`,
          "--device",
          "wasm",
        ];
        const line = [Deno.execPath(), "run", "-A", "--quiet", CLI, ...words].join(" ");
        const { code, stdout } = await new Deno.Command("script", {
          args: ["-qec", line, "/dev/null"],
          env: color ? { NO_COLOR: "" } : { NO_COLOR: "1" },
        }).output();
        const text = new TextDecoder().decode(stdout);
        assert.equal(code, 0, text);
        assert.match(text, /[█░]{10,}/);
        assert.match(text, /\d+% .*s left/);
        // deno-lint-ignore no-control-regex -- escape sequences are what is looked for
        assert.equal(/\u001b\[36m/.test(text), color, JSON.stringify(text));
        // deno-lint-ignore no-control-regex -- the cursor is shown again
        assert.equal(text.match(/\u001b\[\?25h/g)?.length, text.match(/\u001b\[\?25l/g)?.length);
        assert.match(text, /bits per weight +4\./);
      }
    }),
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.test({
    name: `${signal} stops a run with exit code 75, a sentence, and no folder left`,
    ignore: Deno.build.os === "windows",
    fn: () =>
      inFolder(async (folder) => {
        const child = new Deno.Command(Deno.execPath(), {
          args: [
            "run",
            "-A",
            "--quiet",
            CLI,
            "quantize",
            "sample",
            "--output",
            `${folder}/out`,
            ...LONG,
          ],
          stdout: "null",
          stderr: "piped",
        }).spawn();
        let err = "";
        for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
          // The run has begun once it has said what on.
          if (!/ on \d+ threads? of/.test(err) && / on \d+ threads? of/.test(err + text)) {
            assert.match(names(folder).join(), /out\.sluice-partial/);
            child.kill(signal);
          }
          err += text;
        }
        const { code } = await child.status;
        assert.equal(code, 75, err);
        assert.match(
          err,
          /sluice: Stopped\. Nothing was left behind; the same command starts again/,
        );
        assert.deepEqual(names(folder), []);
      }),
  });
}

Deno.test({
  name: "a reader that goes away early is no fault",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const line = `"${Deno.execPath()}" run -A --quiet "${CLI}" inspect sample --json | head -n 1`;
    const { code, stdout, stderr } = await new Deno.Command("sh", { args: ["-c", line] }).output();
    const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
    assert.deepEqual([code, out, err], [0, "{\n", ""]);
  },
});

Deno.test("Deno's refusals name the flag to add, and adding what they name is enough", () =>
  inFolder(async (folder) => {
    const words = [
      ...["quantize", `${SAMPLE}model`, "--output", `${folder}/out`, "--device", "wasm", "--quiet"],
      ...["--evaluate", "--seq-len", "64", "--num-samples", "1"],
    ];
    const allowed = { read: new Set<string>(), write: new Set<string>() };
    for (let round = 0; round < 12; round++) {
      const flags = Object.entries(allowed)
        .filter(([, paths]) => paths.size > 0)
        .map(([kind, paths]) => `--allow-${kind}=${[...paths].join(",")}`);
      const { code, err } = await spawn(flags, words);
      if (code === 0) return;
      assert.equal(code, 1, err);
      const [, kind, path] = /add --allow-(read|write)=(\S+) after "deno run"\.\n$/.exec(err) ?? [];
      assert.ok(kind !== undefined && path !== undefined, err);
      // What lies beside the output is made under names that no one knows before: its folder is allowed.
      const inOutput = path.startsWith(`${folder}/`);
      allowed[kind as "read" | "write"].add(inOutput ? folder : path);
    }
    assert.fail(`it asks for ever more: ${JSON.stringify([...allowed.read, ...allowed.write])}`);
  }));
