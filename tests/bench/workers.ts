/**
 * What machines that share a plan gain: one, two and four workers of one thread each, as processes,
 * on the folder of `SLUICE_BENCH_MODEL` or on the sample model. More workers than cores share
 * cores; what stays the same then is that none waits.
 */
import { join } from "node:path";
import { cpuName } from "./environment.ts";
import { compare, type Ratio } from "./measure.ts";

const TEXT = ["--group-size=64", "--method=gptq", "--num-samples=32", "--seq-len=512"];

const WORKS = [
  { name: "nf4", flags: ["--scheme=NF4"] },
  { name: "gptq on float", flags: [...TEXT, "--calibrate-on=float"] },
  { name: "gptq in 4 shards", flags: [...TEXT, "--calibration-shards=4"] },
] as const;

const COUNTS = [1, 2, 4];

/** Run a command of Sluice in a process of its own. */
async function sluice(...words: readonly string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", join(import.meta.dirname!, "..", "..", "cli.ts"), ...words],
    stdout: "null",
    stderr: "piped",
  }).output();
  if (code !== 0) throw new Error(`${words.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** Run it. */
export async function run(rounds = 3): Promise<Ratio[]> {
  const folder = await Deno.makeTempDir();
  const model = Deno.env.get("SLUICE_BENCH_MODEL") ?? "sample";
  const ratios: Ratio[] = [];
  try {
    for (const { name, flags } of WORKS) {
      const turn = (count: number) => async () => {
        const job = join(folder, crypto.randomUUID());
        const device = ["--device=wasm", "--threads=1"];
        await sluice("plan", model, ...flags, ...device, "--work-dir", job);
        const begun = performance.now();
        await Promise.all(
          Array.from(
            { length: count },
            (_, i) => sluice("work", job, "--worker-index", `${i}/${count}`, "--quiet"),
          ),
        );
        const took = (performance.now() - begun) / 1000;
        await Deno.remove(job, { recursive: true });
        return took;
      };
      const [one, ...more] = await compare(
        COUNTS.map((count) => ({ name: `${count}`, work: 1, turn: turn(count) })),
        { rounds },
      );
      for (const { name: count, rate, seconds } of more) {
        ratios.push({
          what: `${name}, ${count} workers`,
          ours: `${seconds.toFixed(1)} s`,
          against: `one worker: ${one!.seconds.toFixed(1)} s`,
          ratio: rate / one!.rate,
          goal: Math.min(Number(count), navigator.hardwareConcurrency),
          device: cpuName(1),
        });
      }
    }
    return ratios;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
