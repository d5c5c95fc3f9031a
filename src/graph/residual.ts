/**
 * Where the output of a stage joins the residual stream, so that its target can be moved to repair
 * what is in the stream already. Pure.
 */
import type { Linear, State } from "../family.ts";
import type { BlockGraph, Stage } from "./block_graph.ts";

/** A linear whose output, times a factor, is added to other states and to nothing else. */
export interface ResidualEdge {
  readonly linear: Linear;
  /** The linear's output. */
  readonly state: State;
  /** What it is multiplied by before it is added. */
  readonly times: number;
  /** What else of the sum is known by then. */
  readonly beside: readonly { readonly state: State; readonly times: number }[];
}

/**
 * The residual edge of a stage; undefined where its output goes another way: through an activation,
 * or through a norm before it is added, which no linear map goes through.
 */
export function residualEdge(graph: BlockGraph, { linears, at }: Stage): ResidualEdge | undefined {
  if (linears.size !== 1) return undefined;
  const [[state, linear]] = [...linears] as [[State, Linear]];
  if (linear.at.rows) return undefined;
  const [reader, ...others] = graph.readersOf(state);
  if (reader?.op !== "add" || others.length > 0) return undefined;
  const terms = reader.terms.map(({ state, times = 1 }) => ({ state, times }));
  const { times } = terms.find((term) => term.state === state)!;
  const beside = terms.filter((term) => graph.placeOf(term.state) < at);
  return beside.length === 0 ? undefined : { linear, state, times, beside };
}
