/**
 * What it costs a run that nobody stops that it could go on: with a journal and a carry against
 * without, and how much of its time went into saving. On the folder of `SLUICE_BENCH_MODEL`, or on
 * the sample model.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import {
  open,
  openBackend,
  openFolderSink,
  plan,
  prepareCalibration,
  prepareWindows,
  recipeFromOptions,
  requestOf,
  run as runPlan,
  type Sink,
} from "../../mod.ts";
import { cpuName } from "./environment.ts";
import { compare, type Ratio } from "./measure.ts";

const WORKS = [
  { name: "nf4", options: { scheme: "NF4" }, texts: false },
  { name: "awq+gptq, measured", options: { "group-size": 64 }, texts: true },
] as const;

/** The same sink, and the seconds that were spent on what a run goes on with. */
function timed(sink: Sink): { readonly sink: Sink; readonly spent: () => number } {
  const { resumption } = sink;
  let seconds = 0;
  if (!resumption) return { sink, spent: () => 0 };
  const clock =
    <A extends unknown[], T>(call: (...given: A) => Promise<T>) => async (...given: A) => {
      const begun = performance.now();
      try {
        return await call(...given);
      } finally {
        seconds += (performance.now() - begun) / 1000;
      }
    };
  const { append, sync, saveCarry, keepCarry } = resumption;
  return {
    sink: {
      ...sink,
      resumption: {
        ...resumption,
        append: clock(append),
        sync: clock(sync),
        saveCarry: clock(saveCarry),
        keepCarry: clock(keepCarry),
      },
    },
    spent: () => seconds,
  };
}

/** Run it. */
export async function run(rounds = 5): Promise<Ratio[]> {
  const folder = await Deno.makeTempDir();
  try {
    await using source = await open(Deno.env.get("SLUICE_BENCH_MODEL") ?? "sample");
    await using backend = await openBackend("wasm");
    const text = { seqLen: 256, numSamples: 16 };
    const calibration = await prepareCalibration(source, text);
    const evaluation = await prepareWindows(source, text);
    const ratios: Ratio[] = [];
    for (const { name, options, texts } of WORKS) {
      const shares: number[] = [];
      const turn = (resume: boolean) => async () => {
        const out = join(folder, `out-${crypto.randomUUID()}`);
        const work = plan(recipeFromOptions(options), source, {
          device: backend,
          ...(texts
            ? { evaluation: requestOf(evaluation), calibration: requestOf(calibration) }
            : {}),
          resume,
        });
        const begun = performance.now();
        {
          await using opened = await openFolderSink(out, { resume });
          const { sink, spent } = timed(opened);
          const inputs = texts ? { evaluation, calibration } : {};
          await runPlan(work, { source, backend, sink, ...inputs });
          const took = (performance.now() - begun) / 1000;
          if (resume) shares.push(spent() / took);
        }
        const took = (performance.now() - begun) / 1000;
        await Deno.remove(out, { recursive: true });
        return took;
      };
      const [without, with_] = await compare([
        { name: "without", work: 1, turn: turn(false) },
        { name: "with", work: 1, turn: turn(true) },
      ], { rounds });
      const share = shares.reduce((sum, share) => sum + share, 0) / shares.length;
      ratios.push({
        what: `${name}, so that it could go on`,
        ours: `${with_!.seconds.toFixed(2)} s`,
        against: `without: ${without!.seconds.toFixed(2)} s`,
        ratio: with_!.rate / without!.rate,
        goal: 0.97,
        device: cpuName(availableParallelism()),
        detail: `Saving took ${(100 * share).toFixed(1)} % of the time of ${name}.`,
      });
    }
    return ratios;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
