/** Decisions made into tasks, and tasks arranged in the order they are done. Pure. */
import type { DeviceLimits } from "../backend.ts";
import type { Model } from "../family.ts";
import type { Format } from "../format.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { byteLength, type TensorInfo } from "../tensor.ts";
import { sliceOf } from "./slices.ts";
import type { Decision, Place, TensorTask, Unit } from "./tasks.ts";

/** The tensors that one becomes, exactly. */
export function outputsOf(decision: Decision, format: Format): readonly TensorInfo[] {
  switch (decision.kind) {
    case "quantize":
      return format.layout(decision.weight, decision.scheme);
    case "copy":
      return [{ ...decision.source, dtype: decision.dtype }];
    case "smooth":
      return [decision.source];
    case "drop":
      return [];
  }
}

/** A decision, and how its result is stored. */
export interface StoredDecision {
  readonly decision: Decision;
  readonly outputs: readonly TensorInfo[];
}

/**
 * Cut what is to be quantized into slices that a device likes.
 *
 * @throws {UnsupportedError} the device cannot bind the smallest slice of a weight.
 */
export function sliceTasks(
  stored: readonly StoredDecision[],
  { format, device }: { readonly format: Format; readonly device: DeviceLimits },
): TensorTask[] {
  return stored.map(({ decision, outputs }): TensorTask =>
    decision.kind === "quantize"
      ? { ...decision, outputs, ...sliceOf(decision.weight, decision.scheme, format, device) }
      : { ...decision, outputs }
  );
}

/**
 * Tasks in the order they are done: embedding, blocks, the rest; in file order when the
 * architecture is unknown.
 */
export function arrange(tasks: readonly TensorTask[], model: Model | undefined): Unit[] {
  if (!model) return inParts({ name: "tensors", place: undefined, tasks });
  const left = new Map(tasks.map((task) => [task.source.name, task]));
  const take = (names: Iterable<string>): TensorTask[] =>
    [...new Set(names)].flatMap((name) => {
      const task = left.get(name);
      left.delete(name);
      return task ? [task] : [];
    });
  const { table, positions, norm } = model.embedding;
  const embedding = [table, positions?.table, norm?.weight, norm?.bias];
  const unit = (name: string, place: Place | undefined, names: Iterable<string>): Unit => ({
    name,
    place,
    tasks: take(names),
  });
  return [
    unit("embedding", "embedding", embedding.filter((name) => name !== undefined)),
    ...graphsOf(model).map(({ block: { name, nodes }, matrices }, i) => {
      const norms = nodes.flatMap((node) =>
        node.op === "norm" ? [node.norm.weight, node.norm.bias] : []
      );
      const linears = matrices.flatMap(({ at, bias }) => [at.of, bias]);
      const named = [...norms, ...linears].filter((name) => name !== undefined);
      const own = [...left.keys()].filter((tensor) => tensor.startsWith(`${name}.`));
      return unit(name, i, [...named, ...own]);
    }),
    ...inParts(unit("head", undefined, [...left.keys()])),
  ].filter(({ tasks }) => tasks.length > 0);
}

/** Bytes of tensors after which what belongs to no block goes on in another unit. */
const UNIT_BYTES = 256 * 2 ** 20;

/** A unit that windows do not go through, cut between tensors: a run goes on after any of them. */
function inParts({ name, tasks }: Unit): Unit[] {
  const parts: TensorTask[][] = [[]];
  let bytes = 0;
  for (const task of tasks) {
    if (bytes >= UNIT_BYTES) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1)!.push(task);
    bytes += byteLength(task.source);
  }
  return parts.map((tasks) => ({ name, place: undefined, tasks }));
}
