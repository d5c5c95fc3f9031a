/**
 * Perplexity of a model on the CPU, with a BLAS and with Sluice's own kernels, against torch's
 * float32 on the same windows and threads. All must find the same perplexity.
 */
import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { evaluate, open, openBackend, prepareWindows } from "../../mod.ts";
import { blasHere, cpuName, findModel, findPython, PythonServer } from "./environment.ts";
import { compare, type Contestant, type Ratio, type Skipped } from "./measure.ts";

const [WINDOWS, SEQ_LEN] = [4, 1024];
/** The most that two perplexities may differ by, relatively: f32 sums in other orders. */
const TOLERANCE = 1e-3;

/** Run it. */
export async function run(rounds = 3): Promise<(Ratio | Skipped)[]> {
  const given = await findModel();
  if ("skipped" in given) return [{ skipped: `evaluate. ${given.skipped}` }];
  const found = await findPython("torch", "transformers");
  const threads = availableParallelism();
  const library = blasHere();
  await using source = await open(given.model);
  const evaluation = await prepareWindows(source, { seqLen: SEQ_LEN, numSamples: WINDOWS });
  await using stack = new AsyncDisposableStack();
  const work = evaluation.windows.length * SEQ_LEN;
  const perplexities = new Map<string, number>();
  const ours = async (blas: "auto" | "none"): Promise<Contestant> => {
    const backend = stack.use(await openBackend("wasm", { threads, blas }));
    return {
      name: blas,
      work,
      async turn() {
        const { perplexity } = await evaluate(source, { backend, evaluation });
        perplexities.set(`Sluice, BLAS ${blas}`, perplexity!.perplexity!);
      },
    };
  };
  const contestants = [await ours("none"), ...(library ? [await ours("auto")] : [])];
  if ("python" in found) {
    const file = await Deno.makeTempFile({ suffix: ".json" });
    stack.defer(() => Deno.remove(file));
    const windows = evaluation.windows.map((window) => [...window]);
    await Deno.writeTextFile(file, JSON.stringify({ windows }));
    const args = [given.model, file, `${threads}`];
    const torch = stack.use(await PythonServer.start(found.python, "torch_evaluate.py", args));
    contestants.push({
      name: "torch",
      work,
      async turn() {
        const answer = await torch.ask("run") as { seconds: number; perplexity: number };
        perplexities.set("torch", answer.perplexity);
        return answer.seconds;
      },
    });
  }
  const rates = await compare(contestants, { rounds });
  checkAgreement(perplexities);
  const torch = rates.find(({ name }) => name === "torch");
  const rate = (tokens: number) => `${tokens.toFixed(0)} tokens/s`;
  const ratios = rates.filter((one) => one !== torch).map((one): Ratio => ({
    what: `perplexity of ${
      basename(given.model)
    }, ${evaluation.windows.length} × ${SEQ_LEN} tokens`,
    ours: rate(one.rate),
    ...(torch
      ? {
        against: `torch float32: ${rate(torch.rate)}`,
        ratio: one.rate / torch.rate,
        goal: one.name === "auto" ? 1 : 0.6,
      }
      : {}),
    device: cpuName(threads, one.name === "auto" ? library : undefined),
    detail: [...perplexities].map(([who, value]) => `${who}: perplexity ${value.toFixed(4)}`)
      .join("; "),
  }));
  return [
    ...ratios,
    ...(library
      ? []
      : [{ skipped: "evaluate with a BLAS. There is none that Sluice would take." }]),
    ...("skipped" in found ? [{ skipped: `torch's evaluation. ${found.skipped}` }] : []),
  ];
}

function checkAgreement(perplexities: ReadonlyMap<string, number>): void {
  const values = [...perplexities.values()];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (most <= least * (1 + TOLERANCE)) return;
  const told = [...perplexities].map(([who, value]) => `${who} ${value}`).join(", ");
  throw new Error(`The perplexities of one model on the same windows differ: ${told}`);
}
