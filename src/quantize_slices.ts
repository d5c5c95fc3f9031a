/** Weights quantized without data, a slice of rows at a time, and tensors copied as they are. */
import { copied } from "./content.ts";
import { DeviceError } from "./errors.ts";
import type { Packer, Piece } from "./format.ts";
import type { DeviceDType } from "./op.ts";
import type { Step } from "./plan.ts";
import {
  type Context,
  finishWeight,
  keepPacked,
  openMeasures,
  sample,
  writePieces,
} from "./run_context.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { Rows } from "./source.ts";
import { matrixShape } from "./tensor.ts";
import { refuseNaN } from "./usable.ts";
import type { WeightMeasures } from "./weight_measures.ts";

/** Do with one tensor what was planned; norms that take over scales are written with their block (quantize_blocks.ts). */
export async function perform(step: Step, context: Context): Promise<void> {
  switch (step.fate.kind) {
    case "quantize":
      return await quantizeWeight(step, context);
    case "copy":
      return await copyTensor(step, context);
    case "scale":
    case "drop":
      return;
  }
}

async function copyTensor(
  { source: tensor, fate }: Step,
  { output, reads, report, phases }: Context,
): Promise<void> {
  let offset = 0;
  for (const _ of reads.slicesOf(tensor.name)) {
    const bytes = await phases.time("load", () => reads.next());
    refuseNaN(tensor, bytes, "copy");
    const written = copied(tensor, fate, bytes);
    await phases.time("write", () => output.write(tensor.name, offset, written));
    offset += written.length;
  }
  report({ type: "copied", name: tensor.name, bytes: offset });
}

async function quantizeWeight(step: Step, context: Context): Promise<void> {
  const { source: tensor, fate, outputs } = step;
  if (fate.kind !== "quantize") return;
  const { backend, plan, reads, phases } = context;
  const [rows, columns] = matrixShape(tensor.shape);
  keepPacked(outputs, context);
  using scope = backend.scope();
  const packer = plan.format.packer(tensor, fate.scheme, scope);
  using measures = openMeasures(fate.scheme, context);
  for (const { rows: slice } of reads.slicesOf(tensor.name)) {
    context.signal?.throwIfAborted();
    const bytes = await phases.time("load", () => reads.next());
    const work = () =>
      quantizeSlice(step, {
        bytes,
        rows: slice ?? { from: 0, to: rows },
        columns,
        packer,
        measures,
      }, context);
    await writePieces(await context.watch.time("compute", bytes.length, work), context);
    sample(context);
  }
  await writePieces(await phases.time("pack", () => packer.finish()), context);
  finishWeight(step, { measures, context });
}

interface Slice {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly rows: Rows;
  readonly columns: number;
  readonly packer: Packer;
  readonly measures: WeightMeasures | undefined;
}

/** Quantize and pack one slice; where the device's memory does not suffice, its halves. */
async function quantizeSlice(step: Step, slice: Slice, context: Context): Promise<Piece[]> {
  const { source: tensor, fate, rowStep } = step;
  if (fate.kind !== "quantize") return [];
  const { rows: { from, to }, bytes, columns, packer, measures } = slice;
  try {
    using scope = context.backend.scope();
    const weight = scope.alloc(tensor.dtype as DeviceDType, [to - from, columns]);
    context.backend.write(weight, bytes);
    const { scheme, rule: { options }, chain } = fate;
    const { report, phases } = context;
    const { quantized } = await phases.time("round", async () => {
      const names = [tensor.name];
      const rounder = await chain.rounding.open({ names, scheme, options, scope, report });
      return await rounder.round({ weight, scope });
    });
    // All large allocations come before anything is counted, so that halves can start afresh.
    const values = measures && schemeKind(scheme).dequantize(quantized, scope);
    const pieces = await phases.time("pack", () => packer.add(quantized, { from, to }));
    if (measures && values) {
      await phases.time("measure", () => measures.add(weight, quantized, values));
    }
    return pieces;
  } catch (error) {
    const half = Math.floor((to - from) / 2 / rowStep) * rowStep;
    if (!(error instanceof DeviceError && error.kind === "memory") || half < 1) throw error;
    context.report({
      type: "warning",
      code: "smaller-slices",
      message: `${error.message} Going on with slices of ${half} rows of "${tensor.name}".`,
    });
    const cut = bytes.length / (to - from) * half;
    const middle = from + half;
    const halves = [
      { ...slice, bytes: bytes.slice(0, cut), rows: { from, to: middle } },
      { ...slice, bytes: bytes.slice(cut), rows: { from: middle, to } },
    ];
    const pieces: Piece[] = [];
    for (const half of halves) pieces.push(...await quantizeSlice(step, half, context));
    return pieces;
  }
}
