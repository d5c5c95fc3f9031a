/** What is done without data: weights quantized a slice of rows at a time, and tensors copied. */
import type { Scope, Tensor } from "../backend.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import type { DeviceDType } from "../op.ts";
import { copied } from "../plan/content.ts";
import type { CopyTask, QuantizeTask, TensorTask } from "../plan/tasks.ts";
import { schemeKind } from "../schemes/mod.ts";
import { refuseNaN } from "../number.ts";
import type { Context } from "./context.ts";
import type { Rows } from "../source.ts";
import type { Slice } from "./read_ahead.ts";
import { type ChooseRows, type ChosenRows, WeightStore, writePieces } from "./store.ts";

/** What becomes of one tensor in one output. */
export interface Share {
  readonly task: TensorTask;
  readonly context: Context;
}

/**
 * Do with one tensor what was planned, in every output that has a share in it: each slice is read
 * once. Norms and biases that take over scales are written with their block (calibrated.ts).
 */
export async function perform(
  shares: readonly Share[],
  { reads, trace }: Pick<Context, "reads" | "trace">,
): Promise<void> {
  using stack = new DisposableStack();
  const takers = shares.map(({ task, context }) =>
    task.kind === "quantize"
      ? stack.use(new Quantizing(task, context))
      : task.kind === "copy"
      ? new Copying(task, context)
      : undefined
  ).filter((taker) => taker !== undefined);
  if (takers.length === 0) return;
  for (const { rows } of reads.slicesOf(shares[0]!.task)) {
    using read = await trace.time("load", () => reads.next());
    for (const taker of takers) await taker.add(read, rows ?? { from: 0, to: 1 });
  }
  for (const taker of takers) await taker.finish();
}

/** A tensor that is written as it is read. */
class Copying {
  readonly #task: CopyTask;
  readonly #context: Context;
  #offset = 0;

  constructor(task: CopyTask, context: Context) {
    this.#task = task;
    this.#context = context;
  }

  async add({ bytes }: Slice): Promise<void> {
    const { name, source } = this.#task;
    refuseNaN(source, bytes, "copy");
    const stored = copied(this.#task, bytes);
    await writePieces([{ tensor: name, offset: this.#offset, bytes: stored }], this.#context);
    this.#offset += stored.length;
  }

  finish(): void {
    this.#context.report({ type: "copied", name: this.#task.name, bytes: this.#offset });
  }
}

/** A weight whose slices are quantized as they are read. */
class Quantizing implements Disposable {
  readonly #task: QuantizeTask;
  readonly #context: Context;
  readonly #store: WeightStore;

  constructor(task: QuantizeTask, context: Context) {
    this.#task = task;
    this.#context = context;
    this.#store = new WeightStore(task, {}, context);
  }

  async add(read: Slice, rows: Rows): Promise<void> {
    const slice = { read, first: rows.from, count: rows.to - rows.from };
    const choose = chooser(this.#task, slice, this.#context);
    await this.#store.add({ rows, step: this.#task.rowStep, choose });
  }

  finish(): Promise<void> {
    return this.#store.finish();
  }

  [Symbol.dispose](): void {
    this.#store[Symbol.dispose]();
  }
}

/** Quantize a weight of a block that is on the device for other outputs. */
export async function performLoaded(
  task: QuantizeTask,
  { loaded, context }: { readonly loaded: LoadedBlock; readonly context: Context },
): Promise<void> {
  const { name, weight: { shape: [height = 0] }, sliceRows, rowStep } = task;
  using store = new WeightStore(task, {}, context);
  for (let from = 0; from < height; from += sliceRows) {
    const rows = { from, to: Math.min(height, from + sliceRows) };
    const choose: ChooseRows = (rows, scope) => {
      const ids = Uint32Array.from({ length: rows.to - rows.from }, (_, i) => rows.from + i);
      return round(task, loaded.rows(name, ids, scope), { scope, context });
    };
    await store.add({ rows, step: rowStep, choose });
  }
  await store.finish();
}

/** Chooses the codes of rows that lie in the bytes of a slice. */
function chooser(
  task: QuantizeTask,
  { read, first, count }: {
    readonly read: Slice;
    /** Number of the slice's first row. */
    readonly first: number;
    readonly count: number;
  },
  context: Context,
): ChooseRows {
  const { bytes, tensor } = read;
  const { weight: { dtype, shape } } = task;
  const rowBytes = bytes.length / count;
  const columns = shape.slice(1).reduce((product, size) => product * size, 1);
  const part = ({ from, to }: Rows, scope: Scope): Tensor => {
    const weight = scope.alloc(dtype as DeviceDType, [to - from, columns]);
    const slice = bytes.subarray((from - first) * rowBytes, (to - first) * rowBytes);
    context.backend.write(weight, slice);
    return weight;
  };
  return (rows, scope) => {
    const weight = tensor && rows.to - rows.from === count ? tensor : part(rows, scope);
    return round(task, weight, { scope, context });
  };
}

/** Choose the codes of rows of a weight. */
async function round(
  { name, scheme, rule: { options }, chain }: QuantizeTask,
  weight: Tensor,
  { scope, context: { report } }: { readonly scope: Scope; readonly context: Context },
): Promise<ChosenRows> {
  const rounder = await chain.rounding.open({ names: [name], scheme, options, scope, report });
  const { quantized } = await rounder.round({ weight, scope });
  return {
    quantized,
    original: () => weight,
    values: (scope) => schemeKind(scheme).dequantize(quantized, scope),
  };
}
