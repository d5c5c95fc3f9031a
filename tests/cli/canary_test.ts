/**
 * A token that must be nowhere: runs are stopped, logged, shared out and refused with it in the
 * environment, and nothing that they leave or print has it.
 */
import assert from "node:assert/strict";
import { Interrupted } from "../../src/terminal/faults.ts";
import type { Host } from "../../src/terminal/command.ts";
import { READ_TOKEN, startFakeHub } from "../fake_hub/mod.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import { inFolder, keeper, sluice } from "./host.ts";

/** Every file below a folder that holds the token, and how many were looked at. */
function search(folder: string): { readonly found: string[]; readonly files: string[] } {
  const [found, files]: [string[], string[]] = [[], []];
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) {
      const inner = search(path);
      found.push(...inner.found);
      files.push(...inner.files);
    } else {
      files.push(path);
      const text = new TextDecoder("latin1").decode(Deno.readFileSync(path));
      if (text.includes(READ_TOKEN)) found.push(path);
    }
  }
  return { found, files };
}

Deno.test("a token is in no journal, lock, log, report, file of a shared plan, and no message", () =>
  inFolder(async (folder) => {
    const model = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
    await Deno.rename(model, `${folder}/model`);
    await using hub = await startFakeHub({ repos: { "org/model": `${folder}/model` } });
    const env: Readonly<Record<string, string>> = {
      HF_ENDPOINT: hub.endpoint,
      HF_TOKEN: READ_TOKEN,
      HF_HOME: "/nonexistent",
    };
    const printed: string[] = [];
    const on = async (words: readonly string[], host: Partial<Host> = {}) => {
      const { code, out, err } = await sluice(words, { env: (name) => env[name], ...host });
      printed.push(out, err);
      return code;
    };
    /** Stop a run in its second block. */
    const stopped = async (words: readonly string[]) => {
      const stop = new AbortController();
      const out = keeper({
        onWrite(text) {
          if (/"type":"quantized".*layers\.1\./.test(text)) stop.abort(new Interrupted());
        },
      });
      const code = await on(words, { signal: stop.signal, out });
      printed.push(out.text());
      return code;
    };
    const flags = [
      "--scheme",
      "W4A16",
      "--method",
      "rtn",
      "--group-size",
      "32",
      "--device",
      "wasm",
    ];
    const quantize = ["quantize", "org/model", ...flags, "--json"];
    const log = ["--log-file", `${folder}/log`, "--timeline", `${folder}/timeline.json`];
    assert.equal(
      await on([...quantize, ...log, "--report", `${folder}/report`, "--output", `${folder}/out`]),
      0,
    );
    assert.equal(await on(["plan", "org/model", ...flags, "--work-dir", `${folder}/job`]), 0);
    assert.equal(await on(["work", `${folder}/job`]), 0);
    assert.equal(await stopped([...quantize, "--output", `${folder}/stopped`]), 75);
    // Where the Hub fails with the token in what it says.
    hub.faults.add({
      kind: "status",
      status: 403,
      body: JSON.stringify({ error: `no: Bearer ${READ_TOKEN}` }),
      headers: { "X-Error-Message": `no: ${READ_TOKEN}` },
      path: /./,
      times: Infinity,
    });
    assert.equal(await on([...quantize, "--output", `${folder}/refused`]), 4);
    assert.match(printed.at(-2)! + printed.at(-1)!, /no: /);
    for (const text of printed) assert.ok(!text.includes(READ_TOKEN), text);
    const { found, files } = search(folder);
    assert.deepEqual(found, []);
    const left = ["journal.jsonl", ".sluice-owner"].map((name) =>
      `/stopped.sluice-partial/${name}`
    );
    for (
      const name of [...left, "/log", "/timeline.json", "/report/report.json", "/out/sluice.json"]
    ) {
      assert.ok(files.includes(folder + name), name);
    }
    assert.ok(files.some((path) => path.startsWith(`${folder}/job/`)));
    // The Hub was asked with it.
    assert.ok(hub.log.length > 5);
    assert.deepEqual(hub.violations, []);
  }));
