/** How far the quantized model's stream is from the original's, where a stage can make up for it. */
import type { Scope, Tensor } from "../backend.ts";
import type { States } from "../forward/states.ts";
import { copyOf } from "../forward/walk.ts";
import type { BlockGraph, Stage } from "../graph/block_graph.ts";
import { type ResidualEdge, residualEdge } from "../graph/residual.ts";
import { originalPlace } from "../graph/stops.ts";
import { add, scaleCap } from "../ops/mod.ts";
import type { Gap } from "./propagation.ts";

/** What is to be made up for at a stage. */
export function gapAt(
  graph: BlockGraph,
  stage: Stage,
  { original, quantized, scope }: {
    readonly original: States;
    readonly quantized: States;
    readonly scope: Scope;
  },
): Gap {
  const edge = residualEdge(graph, stage);
  if (!edge) {
    return { original: original.get(stage.input), quantized: quantized.get(stage.input) };
  }
  // Where nothing is missing of the sum, the original's stream has it already.
  const [sum] = graph.readersOf(edge.state);
  const whole = sum?.op === "add" && graph.placeOf(sum.to) < originalPlace(graph, stage);
  return {
    original: whole ? original.get(sum.to) : sumOf([...edge.beside, edge], original, scope),
    quantized: sumOf(edge.beside, quantized, scope),
  };
}

/** Σ times·state; the state itself where there is one. */
function sumOf(
  terms: ResidualEdge["beside"],
  states: States,
  scope: Scope,
): Tensor {
  const [{ state, times }, ...others] = terms as [ResidualEdge["beside"][number]];
  const first = states.get(state);
  if (others.length === 0 && times === 1) return first;
  const { backend } = scope;
  const x = copyOf(first, scope);
  if (times !== 1) backend.run(scaleCap, { x }, { times, cap: 0 });
  for (const { state, times: other } of others) {
    backend.run(add, { y: states.get(state), x }, { times: 1, other });
  }
  return x;
}
