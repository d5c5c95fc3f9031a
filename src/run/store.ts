/**
 * A weight packed and written slice by slice, measured on the way, and reported: the same for every
 * way of choosing its codes.
 */
import type { Scope, Tensor } from "../backend.ts";
import { DeviceError, quote } from "../errors.ts";
import type { Packer, Piece } from "../format.ts";
import type { QuantizeTask } from "../plan/tasks.ts";
import type { CalibrationFacts, TensorReport } from "../report.ts";
import type { Quantized } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { Rows } from "../source.ts";
import { byteLength, elementCount, sum } from "../tensor.ts";
import type { Context } from "./context.ts";
import { WeightMeasures } from "./measures.ts";

/** Rows of a weight whose codes were chosen. */
export interface ChosenRows {
  readonly quantized: Quantized;
  /** As the checkpoint has them: f32|bf16|f16[n, C] in `scope`. */
  original(scope: Scope): Tensor;
  /** What the codes stand for: f32[n, C] in `scope`. */
  values(scope: Scope): Tensor;
}

/** Chooses the codes of rows of a weight; what it makes is in `scope`. */
export type ChooseRows = (rows: Rows, scope: Scope) => Promise<ChosenRows> | ChosenRows;

/** One slice of a weight. */
export interface SliceWork {
  readonly rows: Rows;
  readonly choose: ChooseRows;
  /**
   * A slice for which the device has not enough memory may be cut at multiples of this many rows;
   * absent: nowhere.
   */
  readonly step?: number;
}

/** A weight all of whose codes are chosen. */
export interface ChosenWeight {
  readonly task: QuantizeTask;
  readonly slices: readonly { readonly rows: Rows; readonly quantized: Quantized }[];
}

/** The packed bytes of weights, by name; a device is waited for once for all of them. */
export async function packTogether(
  weights: Iterable<ChosenWeight>,
  { backend, plan, trace }: Pick<Context, "backend" | "plan" | "trace">,
): Promise<ReadonlyMap<string, readonly Piece[]>> {
  using scope = backend.scope();
  const pack = async ({ task: { weight, scheme, name }, slices }: ChosenWeight) => {
    const packer = plan.format.packer(weight, scheme, scope);
    const pieces: Piece[] = [];
    for (const { rows, quantized } of slices) pieces.push(...await packer.add(quantized, rows));
    return [name, [...pieces, ...await packer.finish()]] as const;
  };
  const packed = await trace.time("pack", () => Promise.allSettled([...weights].map(pack)));
  return new Map(packed.map((one) => {
    if (one.status === "rejected") throw one.reason;
    return one.value;
  }));
}

/** Pack, write, measure and report one weight; what is packed already is only written. */
export async function storeWeight(
  task: QuantizeTask,
  { slices, ...known }: Known & { readonly slices: Iterable<SliceWork> },
  context: Context,
): Promise<void> {
  using store = new WeightStore(task, known, context);
  for (const slice of slices) await store.add(slice);
  await store.finish();
}

/** What is known of a weight before it is stored. */
interface Known {
  readonly packed?: readonly Piece[] | undefined;
  readonly calibration?: CalibrationFacts;
}

/** One weight that is stored slice after slice. */
export class WeightStore implements Disposable {
  readonly #task: QuantizeTask;
  readonly #known: Known;
  readonly #context: Context;
  readonly #scope: Scope;
  readonly #packer: Packer | undefined;
  readonly #measures: WeightMeasures | undefined;

  constructor(task: QuantizeTask, known: Known, context: Context) {
    const { backend, plan, metrics, distributions } = context;
    const { weight, scheme } = task;
    this.#task = task;
    this.#known = known;
    this.#context = context;
    keepPacked(task, context);
    this.#scope = backend.scope();
    this.#packer = known.packed ? undefined : plan.format.packer(weight, scheme, this.#scope);
    this.#measures = metrics
      ? new WeightMeasures(backend, { scheme, distributions: distributions !== undefined })
      : undefined;
  }

  /** The next slice. */
  async add(slice: SliceWork): Promise<void> {
    const context = this.#context;
    context.signal?.throwIfAborted();
    const weight = { task: this.#task, packer: this.#packer, measures: this.#measures };
    await writePieces(await storeSlice(slice, weight, context), context);
  }

  /** After the last slice. */
  async finish(): Promise<void> {
    const context = this.#context;
    const { packed, calibration } = this.#known;
    const { scheme, weight, outputs, chain, name } = this.#task;
    const measures = this.#measures;
    const rest = packed ?? await context.trace.time("pack", () => this.#packer!.finish());
    await writePieces(rest, context);
    const tensor: TensorReport = {
      name,
      scheme: schemeKind(scheme).label(scheme),
      bitsPerWeight: sum(outputs, byteLength) * 8 / elementCount(weight.shape),
      method: chain.name,
      metrics: measures?.metrics() ?? {},
      ...(calibration ? { calibration } : {}),
    };
    context.tensors.push(tensor);
    const distribution = measures?.distribution();
    if (distribution) context.distributions?.set(name, distribution);
    context.report({ type: "quantized", tensor, bytes: byteLength(weight) });
  }

  [Symbol.dispose](): void {
    this.#measures?.[Symbol.dispose]();
    this.#scope[Symbol.dispose]();
  }
}

/** The packed bytes of one slice; where the device's memory does not suffice, of its parts. */
async function storeSlice(
  { rows, choose, step }: SliceWork,
  weight: {
    readonly task: QuantizeTask;
    readonly packer: Packer | undefined;
    readonly measures: WeightMeasures | undefined;
  },
  context: Context,
): Promise<Piece[]> {
  const { backend, trace } = context;
  const { packer, measures } = weight;
  const { from, to } = rows;
  try {
    using scope = backend.scope();
    const chosen = await trace.time("round", () => choose(rows, scope));
    // All large allocations come before anything is counted, so that parts can start afresh.
    const values = measures && chosen.values(scope);
    const add = () => packer?.add(chosen.quantized, rows) ?? [];
    const pieces = await trace.time("pack", add);
    if (measures && values) {
      const original = chosen.original(scope);
      await trace.time("measure", () => measures.add(original, chosen.quantized, values));
    }
    return pieces;
  } catch (error) {
    const half = step === undefined ? 0 : Math.floor((to - from) / 2 / step) * step;
    if (!(error instanceof DeviceError && error.kind === "memory") || half < 1) throw error;
    context.report({
      type: "warning",
      code: "smaller-slices",
      message: `${error.message} Going on with slices of ${half} rows of ${
        quote(weight.task.name)
      }.`,
    });
    const middle = from + half;
    const pieces: Piece[] = [];
    for (const part of [{ from, to: middle }, { from: middle, to }]) {
      const slice = { rows: part, choose, ...(step === undefined ? {} : { step }) };
      pieces.push(...await storeSlice(slice, weight, context));
    }
    return pieces;
  }
}

/** Room for the stored bytes of a tensor, which the evaluation runs from. */
export function keepPacked(
  { outputs }: Pick<QuantizeTask, "outputs">,
  { packed, evaluation }: Pick<Context, "packed" | "evaluation">,
): void {
  if (!evaluation) return;
  for (const output of outputs) packed.set(output.name, new Uint8Array(byteLength(output)));
}

/** Write pieces of stored tensors, and keep those that the evaluation runs from. */
export async function writePieces(
  pieces: readonly Piece[],
  { output, packed, trace }: Pick<Context, "output" | "packed" | "trace">,
): Promise<void> {
  for (const { tensor, offset, bytes } of pieces) {
    packed.get(tensor)?.set(bytes, offset);
    await trace.time("write", () => output.write(tensor, offset, bytes));
  }
}
