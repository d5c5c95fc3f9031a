// deno-lint-ignore-file no-console
/**
 * Publishes the sample to a fake Hub while it is quantized, large files in parts, and has
 * huggingface_hub and transformers open it from there: `deno run -A published.ts PYTHON FOLDER`.
 * Prints the lines of published.py.
 */
import { fileURLToPath } from "node:url";
import { startFakeHub, TOKEN } from "../fake_hub/mod.ts";

const [python, folder] = Deno.args as [string, string];
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const NAME = "me/published";

await using hub = await startFakeHub({ partBytes: 200_000 });
const env = {
  HF_ENDPOINT: hub.endpoint,
  HF_TOKEN: TOKEN,
  HF_HOME: `${folder}/home`,
  HF_HUB_OFFLINE: "0",
  HF_HUB_DISABLE_XET: "1",
};
const run = async (program: string, args: readonly string[]) => {
  const { code, stdout, stderr } = await new Deno.Command(program, { args: [...args], env })
    .output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  console.log(out);
  if (code === 0) return;
  console.error(err);
  Deno.exit(1);
};
const words = "quantize sample --scheme W4A16 --method rtn --group-size 64 --max-shard-size 1MB";
await run(Deno.execPath(), [
  ...["run", "-A", "--quiet", here("../../cli.ts"), ...words.split(" "), "--quiet", "--yes"],
  ...["--upload-repo", NAME, "--output", `${folder}/out`],
]);
await run(python, [here("published.py"), NAME, `${folder}/out`]);
const commits = hub.log.filter(({ method, path }) => method === "POST" && /\/commit\//.test(path));
console.log(`${commits.length === 1 ? "ok  " : "FAIL"} published: commits: ${commits.length}`);
for (const violation of hub.violations) console.log(`FAIL published: ${violation}`);
