/**
 * A checkpoint that was made stays, whatever happens to it afterwards; and a card is the same
 * whenever it is written.
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import {
  type FakeHub,
  type FaultMatch,
  startFakeHub,
  STRANGER_TOKEN,
  TOKEN,
} from "../fake_hub/mod.ts";
import type { Fault } from "../fake_hub/mod.ts";
import { SpaceError } from "../../src/errors.ts";
import { Interrupted } from "../../src/terminal/faults.ts";
import type { Host } from "../../src/terminal/command.ts";
import { openTemporary } from "../../src/io/temporary.ts";
import { RECORD_FILE } from "../../src/io/names.ts";
import { inFolder, names, type Outcome, sluice } from "./host.ts";

const SAMPLE = fileURLToPath(new URL("../../sample/model/", import.meta.url));
const QUICK = ["--group-size", "64", "--method", "rtn", "--device", "wasm"] as const;

/** Run `test` with an empty fake Hub but for the sample model as `org/sample`, with a card. */
function withHub(
  test: (stage: {
    hub: FakeHub;
    folder: string;
    run: (words: readonly string[], host?: Partial<Host>) => Promise<Outcome>;
  }) => Promise<void>,
): Promise<void> {
  return inFolder(async (folder) => {
    const model = `${folder}/model`;
    await Deno.mkdir(model);
    for (const name of names(SAMPLE)) await Deno.copyFile(`${SAMPLE}${name}`, `${model}/${name}`);
    await Deno.writeTextFile(
      `${model}/README.md`,
      "---\nlicense: mit\nlanguage: en\n---\n# Base\n",
    );
    await using hub = await startFakeHub({ repos: { "org/sample": model } });
    const env: Record<string, string> = {
      HF_ENDPOINT: hub.endpoint,
      HF_TOKEN: TOKEN,
      HF_HOME: "/nonexistent",
    };
    await test({
      hub,
      folder,
      run: (words, host = {}) => sluice(words, { env: (name) => env[name], ...host }),
    });
    assert.deepEqual(hub.violations, []);
  });
}

/** A file of a repository, as text. */
async function read(hub: FakeHub, repo: string, path: string): Promise<string> {
  const response = await fetch(`${hub.endpoint}/${repo}/resolve/main/${path}`, {
    headers: { authorization: `Bearer ${TOKEN}` },
  });
  assert.equal(response.status, 200, `${repo}/${path}`);
  return await response.text();
}

/** No commit is made. */
const NO_COMMIT: Fault & FaultMatch = {
  kind: "status",
  status: 403,
  method: "POST",
  path: /\/commit\//,
  times: Infinity,
};

/** The folder and the command that a failure told of. */
function toldOf(err: string): { checkpoint: string; next: string[] } {
  const [, checkpoint] = /^sluice: The checkpoint stays in (\S+)$/m.exec(err) ?? [];
  const [, next] = /^sluice: To publish it: {2}sluice (publish .+)$/m.exec(err) ?? [];
  assert.ok(checkpoint !== undefined && next !== undefined, err);
  return { checkpoint, next: next.split(" ") };
}

Deno.test("publish later writes the card that quantize --upload-repo writes at once, byte for byte", () =>
  withHub(async ({ hub, folder, run }) => {
    await Deno.writeTextFile(
      `${folder}/recipe.yaml`,
      'scheme: W4A16\ngroup_size: 64\nrules:\n  - match: "re:.*down_proj"\n    scheme: W8A16\n',
    );
    const text = `${folder}/private/mine.txt`;
    await Deno.mkdir(`${folder}/private`);
    await Deno.copyFile(new URL("../../sample/corpus/calibration.txt", import.meta.url), text);
    const words = [
      ...["quantize", "org/sample", "--recipe", `${folder}/recipe.yaml`, "--calibration", text],
      ...["--num-samples", "2", "--seq-len", "32", "--seed", "3", "--evaluate", "--device", "wasm"],
    ];
    const once = await run([...words, "--upload-repo", "me/out", "--yes", "--quiet"]);
    assert.equal(once.code, 0, once.err);
    const made = await run([...words, "--output", `${folder}/out`]);
    assert.equal(made.code, 0, made.err);
    const card = await read(hub, "me/out", "README.md");
    const record = await read(hub, "me/out", RECORD_FILE);
    hub.remove("me/out");
    const later = await run(["publish", `${folder}/out`, "me/out", "--yes", "--device", "wasm"]);
    assert.equal(later.code, 0, later.err);
    assert.equal(await read(hub, "me/out", "README.md"), card);
    assert.equal(await read(hub, "me/out", RECORD_FILE), record);
    for (
      const says of [
        /^base_model: org\/sample$/m,
        /^license: mit$/m,
        /^sluice quantize org\/sample --recipe file --calibration mine\.txt --num-samples 2 .* --output folder$/m,
        /^ {4}scheme: W8A16$/m,
        /^\| method \| awq\+gptq \(24 weights\), rtn \(4 weights\) \|$/m,
        /^\| calibrated on \| mine\.txt: 2 of [\d,]+ windows of 32 tokens, drawn with seed 3 \|$/m,
        /^\| SHA-256 of those tokens \| `[0-9a-f]{64}` \|$/m,
        /^\| source commit \| `[0-9a-f]{40}` \|$/m,
        /^\| perplexity \| \d+\.\d+ \| \d+\.\d+ /m,
        /^Measured on sample: 2 of [\d,]+ windows of 32 tokens/m,
      ]
    ) assert.match(card, says);
    // What is on this machine, and where, is told to nobody.
    for (const text of [card, record]) {
      for (const secret of [folder, "private", TOKEN, "hf_"]) assert.ok(!text.includes(secret));
    }
    // The record tells it without the Hub, too.
    const seen = await run(["inspect", `${folder}/out`]);
    assert.match(seen.out, /^made by +sluice \S+, of org\/sample@[0-9a-f]{40}$/m);
    assert.match(seen.out, /^method +awq\+gptq \(24 weights\), rtn \(4 weights\)$/m);
    assert.match(seen.out, /^calibrated on +mine\.txt: 2 of .* drawn with seed 3$/m);
    assert.match(seen.out, /^perplexity after +\d/m);
  }));

Deno.test("a run whose result could not be published keeps it, says where, and how to go on", () =>
  withHub(async ({ hub, folder, run }) => {
    for (const output of [[], ["--output", `${folder}/out`]]) {
      const fault = hub.faults.add(NO_COMMIT);
      const failed = await run([
        ...["quantize", "sample", ...QUICK, "--upload-repo", "me/Tiny-int4", "--yes", "--json"],
        ...["--branch", "v1", ...output],
      ]);
      assert.equal(failed.code, 4, failed.err);
      assert.match(failed.err, /^sluice: Cannot publish to "me\/Tiny-int4": .*forbid/m);
      const { checkpoint, next } = toldOf(failed.err);
      assert.match(checkpoint, output.length > 0 ? /\/out$/ : /\/Tiny-int4$/);
      assert.deepEqual(next, ["publish", checkpoint, "me/Tiny-int4", "--branch", "v1", "--yes"]);
      const error = JSON.parse(failed.out.trimEnd().split("\n").at(-1)!);
      assert.deepEqual(
        [error.type, error.code, error.exit_status, error.checkpoint, error.next],
        ["error", "hub", 4, checkpoint, `sluice ${next.join(" ")}`],
      );
      fault.remove();
      const published = await run([...next, "--device", "wasm"]);
      assert.equal(published.code, 0, published.err);
      const kept = await Deno.readFile(`${checkpoint}/model.safetensors`);
      assert.ok(kept.length > 1e6);
      if (output.length === 0) await Deno.remove(checkpoint, { recursive: true });
      hub.remove("me/Tiny-int4");
    }
  }));

Deno.test("a run that is told no makes nothing, and one that is stopped after the checkpoint was made keeps it", () =>
  withHub(async ({ hub, folder, run }) => {
    const words = ["quantize", "sample", ...QUICK, "--upload-repo", "me/out", "--quiet"];
    const declined = await run(words, { asks: true, confirm: () => false });
    assert.equal(declined.code, 1);
    assert.equal(declined.err, "sluice: Nothing was published to me/out, as you said.\n");
    assert.ok(hub.log.every(({ method }) => method === "GET"));
    const stop = new AbortController();
    const stopped = await run([...words, "--yes", "--output", `${folder}/out`], {
      signal: stop.signal,
      // Asked for the last time just before the upload.
      env(name) {
        if (name === "HF_TOKEN" && names(folder).includes("out")) stop.abort(new Interrupted());
        const env: Record<string, string> = { HF_ENDPOINT: hub.endpoint, HF_TOKEN: TOKEN };
        return env[name];
      },
    });
    assert.equal(stopped.code, 75, stopped.err);
    assert.match(stopped.err, /^sluice: Stopped\.\n/);
    assert.equal(toldOf(stopped.err).checkpoint, `${folder}/out`);
    assert.ok(names(`${folder}/out`).includes(RECORD_FILE));
  }));

Deno.test("without --output nothing stays of what was published, or of what could not be made", () =>
  withHub(async ({ folder, run }) => {
    const made: string[] = [];
    const temporaryFolder = async () => {
      const temporary = await openTemporary();
      made.push(temporary.path);
      return temporary;
    };
    const words = ["quantize", "sample", ...QUICK, "--upload-repo", "me/out", "--yes", "--quiet"];
    assert.equal((await run(words, { temporaryFolder })).code, 0);
    assert.equal((await run([...words, "--group-size", "7"], { temporaryFolder })).code, 1);
    const late = await run([...words, "--max-ram", "1MB"], { temporaryFolder });
    assert.equal(late.code, 1);
    assert.doesNotMatch(late.err, /stays in/);
    assert.ok(made.length >= 2);
    for (const path of made) await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
    assert.deepEqual(names(folder), ["model"]);
  }));

Deno.test("rights in the namespace, and somebody to ask, are looked for before anything is read", () =>
  withHub(async ({ hub, folder, run }) => {
    const words = ["quantize", `${folder}/none`, ...QUICK, "--upload-repo", "org/new"];
    const nobody = await run(words);
    assert.equal(nobody.code, 1);
    assert.match(
      nobody.err,
      /^sluice: Cannot ask whether to publish to "org\/new": there is no terminal\. Say --yes\.\n$/,
    );
    const env: Record<string, string> = { HF_ENDPOINT: hub.endpoint, HF_TOKEN: STRANGER_TOKEN };
    const stranger = await run([...words, "--yes"], { env: (name) => env[name] });
    assert.equal(stranger.code, 4);
    assert.match(
      stranger.err,
      /^sluice: [^\n]*"org" is neither the account of your token, "stranger"[^\n]*\n$/,
    );
  }));

Deno.test("files of others in the repository are told before the work, and --force goes on", () =>
  withHub(async ({ run }) => {
    const words = ["quantize", "sample", ...QUICK, "--upload-repo", "org/sample", "--yes"];
    const { code, err } = await run([...words, "--quiet"]);
    assert.equal(code, 1);
    assert.match(
      err,
      /^sluice: Cannot publish to "org\/sample": it has files that Sluice did not write \("model-00001[^\n]*--force[^\n]*\n$/,
    );
    const forced = await run([...words, "--quiet", "--force"]);
    assert.equal(forced.code, 0, forced.err);
  }));

Deno.test("a log that fails when the checkpoint is in its place does not take it away", () =>
  withHub(async ({ run }) => {
    const words = ["quantize", "sample", ...QUICK, "--upload-repo", "me/out", "--yes", "--quiet"];
    const { code, err } = await run([...words, "--log-file", "/dev/null"], {
      openLog: () => ({
        write(line) {
          if (!/ finished in /.test(line)) return;
          throw new SpaceError("Cannot write to the log: full.", { path: "log" });
        },
        [Symbol.dispose]() {},
      }),
    });
    assert.equal(code, 5);
    const { checkpoint } = toldOf(err);
    assert.ok(names(checkpoint).includes("model.safetensors"));
    await Deno.remove(checkpoint, { recursive: true });
  }));

Deno.test("a file that cannot be written after all leaves the checkpoint, and says where it is", () =>
  withHub(async ({ folder, run }) => {
    const { code, err } = await run(
      ["quantize", "sample", ...QUICK, "--metrics", `${folder}/m.csv`, "--output", `${folder}/out`],
      { writeText: () => Promise.reject(new Deno.errors.PermissionDenied("no (os error 13)")) },
    );
    assert.equal(code, 5);
    assert.match(err, /^sluice: The checkpoint stays in \S+\/out\n$/m);
    assert.ok(names(`${folder}/out`).includes("model.safetensors"));
  }));
