/**
 * The command line with models of the Hub: the same bytes as from a folder, refusals with exit code
 * 4, a token that is never shown.
 */
import assert from "node:assert/strict";
import { parseSafetensorsMetadata } from "@huggingface/hub";
import { readFileSync } from "node:fs";
import { type FakeHub, READ_TOKEN, startFakeHub, STRANGER_TOKEN, TOKEN } from "../fake_hub/mod.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { RECORD_FILE } from "../../src/io/names.ts";
import { inFolder, names, type Outcome, sluice } from "./host.ts";

/** Run a command line against a fake Hub. */
function onHub(
  hub: FakeHub,
  words: readonly string[],
  env: Readonly<Record<string, string>> = {},
  confirm: boolean | undefined = undefined,
): Promise<Outcome> {
  const all: Readonly<Record<string, string>> = {
    HF_ENDPOINT: hub.endpoint,
    HF_TOKEN: READ_TOKEN,
    HF_HOME: "/nonexistent",
    ...env,
  };
  return sluice(words, {
    env: (name) => all[name],
    asks: confirm !== undefined,
    confirm: () => confirm === true,
  });
}

/** Run `test` with a fake Hub that has a small Llama in several guises. */
function withHub(
  test: (hub: FakeHub, model: string, folder: string) => Promise<void>,
): Promise<void> {
  return inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    const files = `${folder}/model`;
    await using hub = await startFakeHub({
      repos: {
        "org/model": files,
        "org/gated": { files, gated: "manual" },
        "org/private": { files, private: true },
        "org/old": { renamedTo: "org/model" },
      },
      largeFileBytes: 1000,
    });
    await test(hub, files, folder);
    assert.deepEqual(hub.violations, []);
  });
}

Deno.test("quantize org/name gives the bytes that the same model gives from a folder", () =>
  withHub(async (hub, model, folder) => {
    const words = [
      "--scheme",
      "W4A16",
      "--method",
      "rtn",
      "--group-size",
      "32",
      "--device",
      "wasm",
      "--quiet",
    ];
    const local = await sluice(["quantize", model, ...words, "--output", `${folder}/local`]);
    assert.equal(local.code, 0, local.err);
    for (const [out, more] of [["staged", []], ["ranged", ["--max-disk", "1kB"]]] as const) {
      const { code, err } = await onHub(hub, [
        "quantize",
        "org/model",
        ...words,
        ...more,
        "--output",
        `${folder}/${out}`,
      ]);
      assert.equal(code, 0, err);
      assert.deepEqual(names(`${folder}/${out}`), names(`${folder}/local`));
      // The record tells what it was made of; all else is the same.
      for (const name of names(`${folder}/local`).filter((name) => name !== RECORD_FILE)) {
        assert(
          readFileSync(`${folder}/${out}/${name}`).equals(readFileSync(`${folder}/local/${name}`)),
          name,
        );
      }
    }
  }));

Deno.test("inspect, plan and evaluate take org/name, and a renamed repository is followed", () =>
  withHub(async (hub) => {
    for (const name of ["org/model", "org/model@main", "org/old"]) {
      const { code, out, err } = await onHub(hub, ["inspect", name]);
      assert.equal(code, 0, err);
      assert.match(out, /model\.embed_tokens\.weight|llama/);
    }
    const planned = await onHub(hub, ["plan", "org/model", "--scheme", "NF4", "--device", "wasm"]);
    assert.equal(planned.code, 0, planned.err);
  }));

for (
  const [what, words, env, says] of [
    ["missing", ["org/none"], {}, /no model "org\/none"/],
    ["missing revision", ["org/model@v9"], {}, /no revision "v9"/],
    ["gated", ["org/gated"], { HF_TOKEN: STRANGER_TOKEN }, /gated|terms/i],
    ["private", ["org/private"], { HF_TOKEN: STRANGER_TOKEN }, /private/],
    ["wrong token", ["org/private"], { HF_TOKEN: "hf_wrong" }, /token/],
    ["offline", ["org/model"], { HF_HUB_OFFLINE: "1" }, /HF_HUB_OFFLINE/],
    ["unreachable", ["org/model"], { HF_ENDPOINT: "http://127.0.0.1:9" }, /cannot be reached/],
  ] as const
) {
  Deno.test(`quantize refuses a repository that is ${what} with exit code 4 and one sentence`, () =>
    withHub(async (hub, _model, folder) => {
      const { code, out, err } = await onHub(
        hub,
        ["quantize", ...words, "--scheme", "NF4", "--quiet", "--output", `${folder}/out`],
        env,
      );
      assert.equal(code, 4, err);
      assert.equal(out, "");
      assert.match(err, says);
      assert.match(err, /^sluice: [^\n]+\n$/);
      assert(!err.includes("hf_"), "a token is shown");
      assert.deepEqual(names(folder), ["model"]);
    }));
}

const QUANTIZE = [
  "--scheme",
  "W4A16",
  "--method",
  "rtn",
  "--group-size",
  "32",
  "--device",
  "wasm",
] as const;

Deno.test("quantize org/name --upload-repo makes one private commit of what quantize writes, and shows no token", () =>
  withHub(async (hub, model, folder) => {
    const words = [
      "quantize",
      "org/model",
      ...QUANTIZE,
      "--evaluate",
      "--seq-len",
      "16",
      "--num-samples",
      "2",
    ];
    // The tiny model has no tokenizer: what cannot be measured is refused before anything is
    // written or sent.
    const measured = await onHub(hub, [...words, "--upload-repo", "me/out", "--yes"], {
      HF_TOKEN: TOKEN,
    });
    assert.equal(measured.code, 1, measured.err);
    assert.match(measured.err, /no tokenizer\.json/);
    const { code, out, err } = await onHub(
      hub,
      ["quantize", "org/model", ...QUANTIZE, "--upload-repo", "me/out", "--yes"],
      { HF_TOKEN: TOKEN },
    );
    assert.equal(code, 0, err);
    assert(!`${out}${err}`.includes(TOKEN), "a token is shown");
    const requests = hub.log.length;
    const declined = await onHub(
      hub,
      ["quantize", model, ...QUANTIZE, "--upload-repo", "me/no", "--output", `${folder}/no`],
      { HF_TOKEN: TOKEN },
      false,
    );
    assert.equal(declined.code, 1);
    assert.match(declined.err, /a new private repository, branch main: .*Nothing was published/s);
    assert.deepEqual(names(folder), ["model"]);
    assert(hub.log.slice(requests).every(({ method }) => method === "GET"));
    const early = await onHub(hub, [
      "quantize",
      "org/model",
      ...QUANTIZE,
      "--upload-repo",
      "me/other",
      "--yes",
    ]);
    assert.equal(early.code, 4);
    assert.match(early.err, /^sluice: [^\n]*your token may only read[^\n]*\n$/);
    const published = hub.repo("me/out");
    assert.equal(published.settings.private, true);
    await sluice(["quantize", model, ...QUANTIZE, "--quiet", "--output", `${folder}/local`]);
    const again = await onHub(
      hub,
      ["quantize", "me/out", ...QUANTIZE, "--output", `${folder}/no`],
      {
        HF_TOKEN: TOKEN,
      },
    );
    assert.match(again.err, /quantized already \(compressed-tensors\)/);
    const commits = hub.log.filter(({ method, path }) =>
      method === "POST" && path.includes("/commit/")
    );
    assert.equal(commits.length, 1);
    for (const name of names(`${folder}/local`).filter((name) => name !== RECORD_FILE)) {
      const response = await fetch(`${hub.endpoint}/me/out/resolve/main/${name}`, {
        headers: { authorization: `Bearer ${TOKEN}` },
      });
      const bytes = new Uint8Array(await response.arrayBuffer());
      assert(readFileSync(`${folder}/local/${name}`).equals(bytes), name);
    }
  }));

for (
  const words of [
    ["W4A16", "--group-size", "32"],
    ["W3A16", "--group-size", "32"],
    ["W4A16", "--group-size", "32", "--format", "gptq"],
    ["W4A16_ASYM", "--group-size", "32", "--format", "awq"],
    ["W8A8"],
    ["FP8"],
    ["NF4"],
  ]
) {
  Deno.test(`the Hub's own reader counts the model's parameters in ${words.join(" ")}`, () =>
    withHub(async (hub, model, folder) => {
      const { code, err } = await sluice([
        ...["quantize", model, "--method", "rtn", "--device", "wasm", "--quiet", "--scheme"],
        ...[...words, "--output", `${folder}/out`],
      ]);
      assert.equal(code, 0, err);
      const files = names(`${folder}/out`).map((name) =>
        [name, readFileSync(`${folder}/out/${name}`)] as const
      );
      hub.repo("org/model").commit({ files: Object.fromEntries(files), branch: "made" });
      const counted = async (revision: string) => {
        const { parameterCount } = await parseSafetensorsMetadata({
          repo: "org/model",
          revision,
          hubUrl: hub.endpoint,
          computeParametersCount: true,
        });
        return Object.values(parameterCount).reduce((sum, count) => sum + count!, 0);
      };
      assert.equal(await counted("made"), await counted("main"));
    }));
}

Deno.test("publish asks before it sends, and without a terminal wants --yes", () =>
  withHub(async (hub, model, folder) => {
    await sluice(["quantize", model, ...QUANTIZE, "--quiet", "--output", `${folder}/out`]);
    const words = ["publish", `${folder}/out`, "me/asked", "--device", "wasm"];
    const nobody = await onHub(hub, words, { HF_TOKEN: TOKEN });
    assert.equal(nobody.code, 1);
    assert.match(nobody.err, /there is no terminal\. Say --yes\./);
    assert.deepEqual(hub.log, []);
    const declined = await onHub(hub, words, { HF_TOKEN: TOKEN }, false);
    assert.equal(declined.code, 1);
    assert.match(
      declined.err,
      /a new private repository, branch main: \d files[^]*Nothing was published to me\/asked/,
    );
    assert(!hub.log.some(({ method }) => method !== "GET" && method !== "HEAD"));
    const agreed = await onHub(hub, [...words, "--public"], { HF_TOKEN: TOKEN }, true);
    assert.equal(agreed.code, 0, agreed.err);
    assert.match(
      agreed.out,
      /^published {2}http:\/\/127\.0\.0\.1:\d+\/me\/asked\/commit\/[0-9a-f]{40}\n$/,
    );
    assert.equal(hub.repo("me/asked").settings.private ?? false, false);
    const planned = /memory: (\d+ MB) at most; 4 files or parts are sent at a time/.exec(
      agreed.err,
    );
    assert.ok(planned, agreed.err);
    assert.match(agreed.err, new RegExp(`peak memory .* at most, planned ${planned[1]}\n$`));
    const json = await onHub(hub, [...words, "--yes", "--json"], { HF_TOKEN: TOKEN });
    const said = JSON.parse(json.out);
    assert.equal(said.unchanged, true);
    assert.ok(said.planned_memory > 200e6 && said.peak_bytes > 0);
    const readOnly = await onHub(hub, [
      "publish",
      `${folder}/out`,
      "me/other",
      "--yes",
      "--device",
      "wasm",
    ]);
    assert.equal(readOnly.code, 4, readOnly.err);
    assert.match(readOnly.err, /token/);
  }));
