/**
 * One block of SmolLM2's sizes on the CPU, 8 windows of 512 tokens: forward, forward and back with
 * the gradients by all weights and by the input; beside torch, and beside nothing but the products
 * that it takes. With a BLAS, where there is one, and without.
 */
import type { Backend, Scope, Tensor } from "../../src/backend.ts";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { BlockTape } from "../../src/forward/backward.ts";
import { LoadedBlock } from "../../src/forward/loaded_block.ts";
import { ModelTables } from "../../src/forward/tables.ts";
import { walkBlock } from "../../src/forward/walk.ts";
import { originalWeights } from "../../src/forward/weights.ts";
import { graphsOf } from "../../src/graph/block_graph.ts";
import { planTape } from "../../src/graph/tape.ts";
import { multiply } from "../../src/ops/gemm.ts";
import { modelOf } from "../../src/plan/model.ts";
import { gaussian } from "../conformance/given.ts";
import { size } from "../../src/size.ts";
import { blockModel, SIZES } from "./block_model.ts";
import { blasHere, cpuName, findPython, PythonServer } from "./environment.ts";
import { compare, type Contestant, type Ratio, type Skipped } from "./measure.ts";

const LIKE = SIZES["smollm2-135m"];
const [WINDOWS, SEQ_LEN, THREADS] = [8, 512, 2];
const TOKENS = WINDOWS * SEQ_LEN;

function numbers(shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  const values = gaussian(shape[0]! * shape[1]!, 1, 0.5);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

/** The ways of a block on a device, each as a turn; and the bytes that the way back takes. */
async function waysOf(backend: Backend, scope: Scope) {
  await using source = blockModel(LIKE, { blocks: 1 });
  const model = modelOf(source);
  const [graph] = graphsOf(model);
  const tensors = await LoadedBlock.load(graph!, originalWeights(source), { scope });
  const tables = new ModelTables(model, { tokens: SEQ_LEN, scope });
  const [x, gradient] = [1, 2].map(() => numbers([TOKENS, LIKE.hidden], scope)) as [Tensor, Tensor];
  const plan = planTape(graph!, {
    tokens: TOKENS,
    seqLen: SEQ_LEN,
    inputGradient: true,
    budget: Infinity,
  });
  const weights = graph!.matrices.map(({ rows, columns }) => ({
    rows,
    columns,
    ...{ w: numbers([rows, columns], scope), dw: numbers([rows, columns], scope) },
    ...{ x: numbers([TOKENS, columns], scope), y: numbers([TOKENS, rows], scope) },
  }));
  const byName = new Map(graph!.matrices.map(({ name }, i) => [name, weights[i]!]));
  const byWeight = (x: Tensor, dy: Tensor, { rows, columns, dw }: typeof weights[number]) =>
    multiply(backend, {
      a: { tensor: dy, transposed: true },
      b: { tensor: x, transposed: true },
      c: { tensor: dw },
    }, { m: rows, n: columns, k: TOKENS });
  return {
    bytes: plan.bytes,
    async forward() {
      using inner = backend.scope();
      walkBlock(graph!, x, { scope: inner, tensors, tables });
      await backend.finish();
    },
    async both() {
      using inner = backend.scope();
      using tape = new BlockTape(graph!, plan, { scope: inner, tensors, tables });
      tape.forward(x, inner);
      tape.backward(gradient, {
        scope: inner,
        onLinear: ({ name }, { x, dy }) => byWeight(x, dy, byName.get(name)!),
      });
      await backend.finish();
    },
    async products() {
      for (const weight of weights) {
        const { rows, columns, w, x, y } = weight;
        const turned = { tensor: w, transposed: true };
        const size = { m: TOKENS, n: rows, k: columns };
        multiply(backend, { a: { tensor: x }, b: { tensor: w }, c: { tensor: y } }, size);
        byWeight(x, y, weight);
        multiply(backend, { a: { tensor: y }, b: turned, c: { tensor: x } }, {
          ...{ m: TOKENS, n: columns, k: rows },
          // Turn after turn, numbers stay of one size.
          alpha: 2 ** -8,
        });
      }
      await backend.finish();
    },
  };
}

/** Run it. */
export async function run(rounds = 5): Promise<(Ratio | Skipped)[]> {
  await using opened = new AsyncDisposableStack();
  const contestants: Contestant[] = [];
  const library = blasHere();
  const kinds = library ? ["auto", "none"] as const : ["none"] as const;
  let bytes = 0;
  for (const blas of kinds) {
    const backend = opened.use(await openWasm({ threads: THREADS, blas }));
    const { bytes: planned, ...ways } = await waysOf(backend, opened.use(backend.scope()));
    bytes = planned;
    for (const [way, turn] of Object.entries(ways)) {
      contestants.push({ name: `${way} ${blas}`, work: TOKENS, turn });
    }
  }
  const found = await findPython("torch", "transformers");
  if ("python" in found) {
    const asked = { ...LIKE, windows: WINDOWS, tokens: SEQ_LEN, threads: THREADS };
    const torch = opened.use(
      await PythonServer.start(found.python, "torch_backward.py", [JSON.stringify(asked)]),
    );
    for (const way of ["forward", "both"]) {
      const turn = async () => await torch.ask(way) as number;
      contestants.push({ name: `${way} torch`, work: TOKENS, turn });
    }
  }
  const rates = await compare(contestants, { rounds });
  const secondsOf = (name: string) => rates.find((rate) => rate.name === name)?.seconds;
  const told = (seconds: number) => `${seconds.toFixed(3)} s`;
  const detail = `${WINDOWS} × ${SEQ_LEN} tokens, ${THREADS} threads; forward and back takes ${
    size(bytes)
  } beside weights, input and gradients by weights`;
  const rows = kinds.flatMap((blas) => {
    const by = blas === "none" ? "own kernels" : "BLAS";
    const device = cpuName(THREADS, blas === "none" ? undefined : library);
    const row = (way: string, rival: string, label: string): Ratio[] => {
      const [ours, other] = [secondsOf(`${way} ${blas}`)!, secondsOf(rival)];
      if (other === undefined) return [];
      const what = `a SmolLM2 block ${way === "both" ? "and back" : "forward"}, ${by}`;
      const against = `${label}: ${told(other)}`;
      return [{ what, ours: told(ours), against, ratio: other / ours, device, detail }];
    };
    return [
      ...row("forward", "forward torch", "torch"),
      ...row("both", "both torch", "torch"),
      ...row("both", `products ${blas}`, "its products alone"),
      ...row("both", `forward ${blas}`, "forward"),
    ];
  });
  return [...rows, ...("python" in found ? [] : [found])];
}
