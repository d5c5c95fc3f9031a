/**
 * Between which tensors smoothing methods (AWQ, SmoothQuant) may move scales, as the recipe has
 * them quantized. Pure.
 */
import type { BlockGraph, Stage } from "../graph/block_graph.ts";
import { type Smoothing, smoothingOf } from "../graph/pairs.ts";
import type { SmoothingMethod } from "../method.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { Decision } from "./tasks.ts";

/** Scales that may be moved out of a stage's input. */
export interface StageSmoothing {
  /** Those that find scales, to be tried in this order. */
  readonly methods: readonly SmoothingMethod[];
  readonly source: Smoothing;
}

/**
 * Whether scales may be moved at a stage: all its linears are quantized by the same methods, some
 * of which move scales, and what makes its input can take them over.
 *
 * @param decisionOf By the name of a matrix or tensor.
 */
export function stageSmoothing(
  graph: BlockGraph,
  stage: Stage,
  decisionOf: (name: string) => Decision | undefined,
): StageSmoothing | undefined {
  const source = smoothingOf(graph, stage);
  const chains = stage.matrices.map(({ name }) => {
    const decision = decisionOf(name);
    return decision?.kind === "quantize" ? decision.chain : undefined;
  });
  const [first] = chains;
  if (!source || !first || chains.some((chain) => chain?.name !== first.name)) return undefined;
  const methods = first.smoothing.filter(({ after }) =>
    source.kind === "norm" || after === "norms and linears"
  );
  const able = source.kind === "norm" ? true : canScaleRows(decisionOf(source.matrix.name));
  const willing = vectorsOf(source).every((name) =>
    ["copy", "smooth"].includes(decisionOf(name)?.kind ?? "")
  );
  return able && willing && methods.length > 0 ? { methods, source } : undefined;
}

/** Whether a weight's rows can be divided after its codes were chosen. */
function canScaleRows(decision: Decision | undefined): boolean {
  if (decision?.kind !== "quantize") return false;
  return schemeKind(decision.scheme).choice?.rowsScale(decision.scheme) === true;
}

/** The norm's tensors, or the bias of the rows, that are divided by scales. */
export function vectorsOf(source: Smoothing): string[] {
  const names = source.kind === "norm"
    ? [source.norm.weight, source.norm.bias]
    : [source.matrix.bias];
  return names.filter((name) => name !== undefined);
}
