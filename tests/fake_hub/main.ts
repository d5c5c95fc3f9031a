// deno-lint-ignore-file no-console
/**
 * A fake Hub for a person: `deno run -A tests/fake_hub/main.ts FOLDER [--port 8000] [--synthetic
 * org/name=20GB/200MB] [--log]`.
 *
 * Each folder `FOLDER/org/name` is a model, each `FOLDER/datasets/org/name` a dataset; a FOLDER
 * that holds files is the model `fake/FOLDER`. `--synthetic` adds a model of noise of so many bytes
 * in tensors of so many. It runs until Ctrl-C.
 */
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { type RepositoryInput, startFakeHub, syntheticCheckpoint, TOKEN } from "./mod.ts";

const { values, positionals } = parseArgs({
  args: Deno.args,
  allowPositionals: true,
  options: {
    port: { type: "string" },
    synthetic: { type: "string", multiple: true },
    log: { type: "boolean" },
  },
});

const repos: Record<string, RepositoryInput> = {};
for (const folder of positionals) Object.assign(repos, repositoriesIn(resolve(folder)));
for (const asked of values.synthetic ?? []) {
  const [, place, total, tensor] = /^([\w./-]+)=(\d+[kMG]?B?)(?:\/(\d+[kMG]?B?))?$/.exec(asked) ??
    [];
  if (place === undefined || total === undefined) {
    throw new RangeError(`--synthetic is org/name=20GB or org/name=20GB/200MB, got "${asked}".`);
  }
  repos[place] = syntheticCheckpoint({
    totalBytes: bytes(total),
    ...(tensor === undefined ? {} : { tensorBytes: bytes(tensor) }),
  });
}

await using hub = await startFakeHub({
  repos,
  ...(values.port === undefined ? {} : { port: Number(values.port) }),
});
console.log(`export HF_ENDPOINT=${hub.endpoint}`);
console.log(`export HF_TOKEN=${TOKEN}`);
for (const place of Object.keys(repos)) console.log(`# ${place}`);
const stop = Promise.withResolvers<void>();
Deno.addSignalListener("SIGINT", stop.resolve);
Deno.addSignalListener("SIGTERM", stop.resolve);
await stop.promise;
if (values.log) {
  for (const { origin, method, path, range, status, sent } of hub.log) {
    console.log(`${origin} ${method} ${path} ${range ?? ""} ${status} ${sent}`);
  }
}

/** Models and datasets below a folder. */
function repositoriesIn(folder: string): Record<string, RepositoryInput> {
  const names = [...Deno.readDirSync(folder)];
  if (names.some(({ isFile }) => isFile)) return { [`fake/${basename(folder)}`]: folder };
  const found: Record<string, RepositoryInput> = {};
  for (const { name: org } of names) {
    for (const { name } of Deno.readDirSync(join(folder, org))) {
      if (org !== "datasets") found[`${org}/${name}`] = join(folder, org, name);
      else {
        for (const { name: last } of Deno.readDirSync(join(folder, org, name))) {
          found[`datasets/${name}/${last}`] = join(folder, org, name, last);
        }
      }
    }
  }
  return found;
}

function bytes(text: string): number {
  const scale = { k: 1e3, M: 1e6, G: 1e9 }[text.replace(/^\d+|B$/g, "")] ?? 1;
  return parseInt(text) * scale;
}
