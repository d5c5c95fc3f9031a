/**
 * The program as a process: exit codes, signals, pipes, a terminal of its own, and what Deno has to
 * allow it.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import denoJson from "../../deno.json" with { type: "json" };
import { inFolder, names } from "./host.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
const SAMPLE = fileURLToPath(new URL("../../sample/", import.meta.url));
/** With hidden states on disk, so that there is something in the temporary folder, too. */
const LONG = ["--evaluate", "--seq-len", "512", "--device", "wasm", "--max-states", "1MB"];

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
          // Calibrated: what is done at once leaves no time to tell of.
          ...["--group-size", "64", "--num-samples", "16", "--seq-len", "128"],
          ...["--output", `${folder}/out-${color}`, "--device", "wasm"],
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

/** Begin a long run, do something to it once it goes, and wait for its end. */
async function interrupt(
  folder: string,
  act: (child: Deno.ChildProcess) => void,
  { program = Deno.execPath(), before = [] as string[], more = [] as string[], env = {} } = {},
): Promise<{ readonly code: number; readonly err: string }> {
  const child = new Deno.Command(program, {
    args: [
      ...before,
      ...["run", "-A", "--quiet", CLI, "quantize", "sample", "--output", `${folder}/out`, ...LONG],
      ...more,
    ],
    env,
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let err = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    // The run has begun once it has said what on.
    if (!/ on \d+ threads? of/.test(err) && / on \d+ threads? of/.test(err + text)) act(child);
    err += text;
  }
  const { code } = await child.status;
  return { code, err };
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  Deno.test({
    name: `${signal} stops a run with exit code 75, a sentence, and a folder that goes on`,
    ignore: Deno.build.os === "windows",
    fn: () =>
      inFolder(async (folder) => {
        const { code, err } = await interrupt(folder, (child) => {
          assert.match(names(folder).join(), /out\.sluice-partial/);
          child.kill(signal);
        });
        assert.equal(code, 75, err);
        const [, kept, units] =
          /sluice: Stopped\. (?:The same command goes on after (\d) of (\d) units|Nothing was left behind; the same command starts again)/
            .exec(err) ?? assert.fail(err);
        assert.deepEqual(names(folder), kept === undefined ? [] : ["out.sluice-partial"]);
        if (kept !== undefined) assert.equal(units, "6");
      }),
  });
}

Deno.test({
  name: "a second Ctrl-C, or a second word to end, stops at once with exit code 130",
  ignore: Deno.build.os === "windows",
  fn: () =>
    inFolder(async (folder) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) {
        const child = new Deno.Command(Deno.execPath(), {
          args: ["run", "-A", "--quiet", CLI, "quantize", "sample", "--method", "gptq+tune"].concat(
            ["--seq-len", "64", "--num-samples", "8", "--device", "wasm"],
            ["--output", `${folder}/${signal}`],
          ),
          stdout: "null",
          stderr: "piped",
        }).spawn();
        let err = "";
        for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
          // The embedding was over too soon to be saved: the first block is to be finished.
          if (/10 % +model\.layers\.0/.test(text)) child.kill(signal);
          if (/Stopping\. Once more stops at once\./.test(text)) child.kill(signal);
          err += text;
        }
        assert.equal((await child.status).code, 130, err);
      }
    }),
});

Deno.test({
  name: "a run that was started to outlive its terminal (nohup) goes on after SIGHUP",
  ignore: !await has("nohup") || Deno.build.os !== "linux",
  fn: () =>
    inFolder(async (folder) => {
      const { code, err } = await interrupt(folder, (child) => {
        child.kill("SIGHUP");
      }, {
        program: "nohup",
        before: [Deno.execPath()],
        more: ["--num-samples", "4", "--scheme", "NF4"],
      });
      assert.equal(code, 0, err);
      assert.ok(names(`${folder}/out`).includes("model.safetensors"));
    }),
});

Deno.test({
  name: "what a killed run leaves is told and removed at the next start",
  ignore: Deno.build.os === "windows",
  fn: () =>
    inFolder(async (folder) => {
      await Deno.mkdir(`${folder}/tmp`);
      const env = { TMPDIR: `${folder}/tmp` };
      const { code } = await interrupt(folder, (child) => child.kill("SIGKILL"), { env });
      assert.equal(code, 137);
      const [partial] = names(folder);
      assert.equal(partial, "out.sluice-partial");
      const temporary = names(`${folder}/tmp`);
      assert.ok(temporary.length > 0);
      const words = ["quantize", "sample", "--scheme", "NF4", "--device", "wasm"];
      const next = await spawn(["-A"], [...words, "--output", `${folder}/other`], { env });
      assert.equal(next.code, 0, next.err);
      const told = next.err.split("\n").filter((line) => /which a run that was killed/.test(line));
      assert.equal(told.length, temporary.length + 1, next.err);
      assert.ok(next.err.includes(`sluice: warning: Removed "${folder}/${partial}" (`), next.err);
      assert.deepEqual(names(folder), ["other", "tmp"]);
      assert.deepEqual(names(`${folder}/tmp`), []);
    }),
});

/** Run a line of the shell in which `$SLUICE` is the program. */
async function shell(line: string): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", `set -o pipefail; ${line}`],
    env: { SLUICE: `${Deno.execPath()} run -A --quiet ${CLI}` },
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, out: out!, err: err!.replace(/^error: XDG_RUNTIME_DIR .*\n/gm, "") };
}

const BRIEF = "--device wasm --quiet --json";
const QUICK = `${BRIEF} --seq-len 32 --num-samples 2`;

Deno.test({
  name: "a reader that goes away early is no fault, and a checkpoint is made for all that",
  ignore: Deno.build.os === "windows" || !await has("bash"),
  fn: () =>
    inFolder(async (folder) => {
      const inspected = await shell("$SLUICE inspect sample --json | head -n 1");
      assert.deepEqual(inspected, { code: 0, out: "{\n", err: "" });
      const measured = await shell(`$SLUICE evaluate sample ${QUICK} | head -n 1`);
      assert.deepEqual([measured.code, measured.err], [0, ""]);
      const made = await shell(
        `$SLUICE quantize sample --scheme NF4 ${BRIEF} --output ${folder}/out | head -n 1`,
      );
      assert.deepEqual([made.code, made.err], [0, ""]);
      assert.match(made.out, /^\{"type":"start",[^\n]*\n$/);
      assert.ok(names(`${folder}/out`).includes("model.safetensors"));
    }),
});

Deno.test({
  name:
    "standard output on a full disk ends with exit code 5 and a sentence, after the checkpoint was made",
  ignore: Deno.build.os !== "linux" || !await has("bash"),
  fn: () =>
    inFolder(async (folder) => {
      const sentence =
        'sluice: Cannot write to "standard output": the disk is full. Free some space, or write to another disk.\n';
      for (
        const words of ["--version", "inspect sample --json", `evaluate sample ${QUICK}`].concat(
          `quantize sample --scheme NF4 ${BRIEF} --output ${folder}/out`,
        )
      ) {
        const { code, err } = await shell(`$SLUICE ${words} > /dev/full`);
        assert.deepEqual([code, err], [5, sentence], words);
      }
      assert.ok(names(`${folder}/out`).includes("model.safetensors"));
      // Messages that nobody can be told of are no reason to stop.
      const { code, out } = await shell(
        "$SLUICE evaluate sample --device wasm --seq-len 32 --num-samples 1 2> /dev/full",
      );
      assert.equal(code, 0);
      assert.match(out, /^perplexity/m);
      const log = await shell(`$SLUICE evaluate sample ${QUICK} --log-file /dev/full`);
      assert.equal(log.code, 5);
      assert.match(log.err, /^sluice: Cannot write to "\/dev\/full": the disk is full[^\n]*\n$/);
    }),
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
      // A name that is made up anew each time would never be enough.
      assert.doesNotMatch(path, /partial/);
      allowed[kind as "read" | "write"].add(path);
    }
    assert.fail(`it asks for ever more: ${JSON.stringify([...allowed.read, ...allowed.write])}`);
  }));
