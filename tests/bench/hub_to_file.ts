/**
 * A checkpoint on the Hub to a quantized file, against a plain reader of the same files: a fake Hub
 * in a process of its own.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import {
  open,
  openBackend,
  openFolderSink,
  plan,
  recipeFromOptions,
  run as runPlan,
} from "../../mod.ts";
import { cpuName } from "./environment.ts";
import { compare, type Ratio } from "./measure.ts";

const MODEL = "big/model";

/** A fake Hub with 1 GB of noise, and its address. */
async function startHub(): Promise<AsyncDisposable & { endpoint: string }> {
  const script = new URL("../fake_hub/main.ts", import.meta.url).pathname;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, "--synthetic", `${MODEL}=1GB/100MB`],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!/HF_ENDPOINT=(\S+)\n/.test(text)) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The fake Hub ended before it told its address");
    text += value;
  }
  return {
    endpoint: /HF_ENDPOINT=(\S+)\n/.exec(text)![1]!,
    async [Symbol.asyncDispose]() {
      child.kill();
      await reader.cancel();
      await child.status;
    },
  };
}

/** Read every weight file whole and keep nothing. */
async function readAll(endpoint: string): Promise<number> {
  const tree = await (await fetch(`${endpoint}/api/models/${MODEL}/tree/main`)).json() as {
    path: string;
  }[];
  let bytes = 0;
  for (const { path } of tree) {
    if (!path.endsWith(".safetensors")) continue;
    const response = await fetch(`${endpoint}/${MODEL}/resolve/main/${path}`);
    for await (const chunk of response.body!) bytes += chunk.length;
  }
  return bytes;
}

/** Run it. */
export async function run(rounds = 3): Promise<Ratio[]> {
  const folder = await Deno.makeTempDir();
  try {
    await using hub = await startHub();
    await using backend = await openBackend("wasm");
    const size = await readAll(hub.endpoint);
    const quantize = async (maxDisk: number) => {
      const out = join(folder, `out-${crypto.randomUUID()}`);
      await using source = await open(MODEL, {
        hub: {
          endpoint: hub.endpoint,
          userAgent: "sluice-bench",
          stagingFolder: join(folder, "staging"),
          maxDisk,
        },
      });
      await using sink = await openFolderSink(out);
      const work = plan(recipeFromOptions({ scheme: "NF4" }), source, { device: backend });
      await runPlan(work, { source, backend, sink });
      await Deno.remove(out, { recursive: true });
    };
    const work = size / 1e9;
    const ratios: Ratio[] = [];
    // As fast as two cores move bytes over loopback, and as a good line does: 1 MB in 5 ms on each
    // connection.
    for (const [line, throttle] of [["loopback", false], ["a line of 1.6 Gbit/s", true]] as const) {
      if (throttle) {
        const body = JSON.stringify({
          kind: "dribble",
          size: 1e6,
          ms: 5,
          on: "storage",
          times: 1e9,
        });
        await (await fetch(`${hub.endpoint}/_fault`, { method: "POST", body })).body?.cancel();
      }
      const [plain, ...ours] = await compare([
        { name: "plain reader", work, turn: async () => void await readAll(hub.endpoint) },
        { name: "shards staged and hashed", work, turn: () => quantize(4e9) },
        { name: "tensors by range", work, turn: () => quantize(0) },
      ], { rounds });
      for (const { name, rate } of ours) {
        ratios.push({
          what: `nf4, Hub to file over ${line}, ${name}`,
          ours: `${rate.toFixed(2)} GB/s`,
          against: `a plain reader: ${plain!.rate.toFixed(2)} GB/s`,
          ratio: rate / plain!.rate,
          goal: throttle ? 0.8 : 0.7,
          device: cpuName(availableParallelism()),
        });
      }
    }
    return ratios;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
