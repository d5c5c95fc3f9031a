/** What is done without data: weights quantized a slice of rows at a time, and tensors copied. */
import type { Scope, Tensor } from "../backend.ts";
import type { DeviceDType } from "../op.ts";
import { copied } from "../plan/content.ts";
import type { CopyTask, QuantizeTask, TensorTask } from "../plan/tasks.ts";
import { schemeKind } from "../schemes/mod.ts";
import { refuseNaN } from "../number.ts";
import type { Context } from "./context.ts";
import type { Rows } from "../source.ts";
import type { Slice } from "./read_ahead.ts";
import { type ChooseRows, type SliceWork, storeWeight, writePieces } from "./store.ts";

/**
 * Do with one tensor what was planned; norms and biases that take over scales are written with
 * their block (calibrated.ts).
 */
export async function perform(task: TensorTask, context: Context): Promise<void> {
  switch (task.kind) {
    case "quantize":
      return await storeWeight(task, { slices: slicesOf(task, context) }, context);
    case "copy":
      return await copyTensor(task, context);
    case "smooth":
    case "drop":
      return;
  }
}

async function copyTensor(task: CopyTask, context: Context): Promise<void> {
  const { name, source } = task;
  const { reads, report, trace } = context;
  let offset = 0;
  for (const _ of reads.slicesOf(task)) {
    const { bytes } = await trace.time("load", () => reads.next());
    refuseNaN(source, bytes, "copy");
    const stored = copied(task, bytes);
    await writePieces([{ tensor: name, offset, bytes: stored }], context);
    offset += stored.length;
  }
  report({ type: "copied", name, bytes: offset });
}

/** The slices of a weight, as they are read. */
async function* slicesOf(task: QuantizeTask, context: Context): AsyncGenerator<SliceWork> {
  const { reads, trace } = context;
  for (const { rows } of reads.slicesOf(task)) {
    using read = await trace.time("load", () => reads.next());
    const slice = rows ?? { from: 0, to: 1 };
    yield {
      rows: slice,
      step: task.rowStep,
      choose: chooser(task, { read, first: slice.from, count: slice.to - slice.from }, context),
    };
  }
}

/** Chooses the codes of rows that lie in the bytes of a slice. */
function chooser(
  { name, weight: { dtype, shape }, scheme, rule: { options }, chain }: QuantizeTask,
  { read, first, count }: {
    readonly read: Slice;
    /** Number of the slice's first row. */
    readonly first: number;
    readonly count: number;
  },
  { backend, report }: Context,
): ChooseRows {
  const { bytes, tensor } = read;
  const rowBytes = bytes.length / count;
  const columns = shape.slice(1).reduce((product, size) => product * size, 1);
  const part = ({ from, to }: Rows, scope: Scope): Tensor => {
    const weight = scope.alloc(dtype as DeviceDType, [to - from, columns]);
    backend.write(weight, bytes.subarray((from - first) * rowBytes, (to - first) * rowBytes));
    return weight;
  };
  return async (rows, scope) => {
    const weight = tensor && rows.to - rows.from === count ? tensor : part(rows, scope);
    const rounder = await chain.rounding.open({ names: [name], scheme, options, scope, report });
    const { quantized } = await rounder.round({ weight, scope });
    return {
      quantized,
      original: () => weight,
      values: (scope) => schemeKind(scheme).dequantize(quantized, scope),
    };
  };
}
