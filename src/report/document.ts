/**
 * The report of a run as data: what `report.json` holds, and what the page and the table are made
 * of. Keys are in snake_case and stay what they are as long as `version` does; numbers are plain,
 * bytes and seconds. What does not apply, or was not measured, is null.
 */
import type { MemoryPlan } from "../plan/planned.ts";
import type { Distribution } from "../metrics/distribution.ts";
import { METRICS } from "../metrics/mod.ts";
import { type Phase, PHASES, type PhaseUses } from "../trace.ts";
import type { Traffic } from "../traffic.ts";
import type { Plan } from "../plan/planned.ts";
import { type QuantizeTask, quantizeTasks } from "../plan/tasks.ts";
import { placesOf } from "./places.ts";
import type { RunRecord } from "./record.ts";
import type { RunReport } from "./run_report.ts";
import type { Timeline } from "../trace.ts";
import { codeBits } from "../scheme.ts";
import { byteLength, matrixShape, sum } from "../tensor.ts";

/** One quantized weight. */
export interface ReportWeight {
  readonly name: string;
  /** The block it belongs to, as the plan names it. */
  readonly block: string;
  /** The number of its layer, and its name without that: `mlp.up_proj`. */
  readonly depth: number | null;
  readonly kind: string;
  readonly rows: number;
  readonly columns: number;
  /** In words. */
  readonly scheme: string;
  readonly bits: number | null;
  readonly group_size: number | null;
  readonly method: string;
  /** Why it was rounded to nearest instead. */
  readonly fallback: string | null;
  readonly bits_per_weight: number;
  readonly source_bytes: number;
  readonly stored_bytes: number;
  /** By name, as `--metrics` has them. */
  readonly metrics: Readonly<Record<string, number>>;
  /** tr(E·H·Eᵀ) / tr(W·H·Wᵀ) */
  readonly output_error: number | null;
  /** GPTQ's loss per token, what was expected of it, and its bound where nothing is clipped. */
  readonly loss: number | null;
  readonly expected_loss: number | null;
  readonly loss_bound: number | null;
  /** Of its block's output, on windows that were held out, before the block was trained and after. */
  readonly block_error_before: number | null;
  readonly block_error: number | null;
  readonly damping: number | null;
  readonly strength: number | null;
  /** The scale of activations that was fixed. */
  readonly input_scale: number | null;
  /** Tokens of the calibration that it saw. */
  readonly tokens: number | null;
  readonly distribution: Distribution | null;
}

/**
 * A phase of a run: its time, the most resident memory that was seen, and what the plan has for it.
 */
export interface ReportPhase {
  readonly phase: Phase;
  readonly seconds: number;
  readonly peak_bytes: number;
  readonly planned_bytes: number;
  /** What passed to and from the device; absent where none has memory of its own. */
  readonly traffic?: Traffic;
}

/** The record of the run, and what is too long or too fleeting for that. */
export interface ReportDocument extends Omit<RunRecord, "warnings"> {
  readonly created: string | null;
  readonly warnings: RunReport["warnings"];
  readonly seconds: number;
  /** 0 when it was not sampled. */
  readonly peak_bytes: number;
  readonly planned_memory: MemoryPlan;
  readonly phases: readonly ReportPhase[];
  readonly blocks: readonly {
    readonly name: string;
    readonly peak_bytes: number;
    readonly seconds: Readonly<Partial<Record<Phase, number>>>;
  }[];
  readonly timeline: Timeline;
  /**
   * ‖x̃ − x‖ / ‖x‖ of the residual stream: behind each block, and behind the last by place in a
   * window.
   */
  readonly stream_error: {
    readonly blocks: readonly number[];
    readonly positions: readonly number[];
    readonly tokens_per_position: number;
  } | null;
  readonly weights: readonly ReportWeight[];
}

/** Put together what is known of a run. */
export function reportDocument(plan: Plan, run: RunReport, created?: string): ReportDocument {
  return {
    ...run.record,
    created: created ?? null,
    warnings: run.warnings,
    seconds: run.seconds,
    peak_bytes: run.peakBytes,
    planned_memory: plan.memory,
    phases: PHASES.flatMap((phase) => {
      const use = run.phases.total[phase];
      if (!use) return [];
      const { seconds, peakBytes: peak_bytes, traffic } = use;
      return [{
        phase,
        seconds,
        peak_bytes,
        planned_bytes: plannedFor(phase, plan),
        ...(traffic ? { traffic } : {}),
      }];
    }),
    blocks: run.phases.blocks.map(({ name, phases }) => ({ name, ...usesOf(phases) })),
    timeline: run.timeline,
    stream_error: run.streamErrors
      ? {
        blocks: run.streamErrors.blocks,
        positions: run.streamErrors.positions,
        tokens_per_position: run.streamErrors.tokensPerPosition,
      }
      : null,
    weights: weightsOf(plan, run),
  };
}

/** What a plan counts for a phase: of its peak, the part that this phase may need. */
function plannedFor(phase: Phase, { memory, calibration }: Plan): number {
  const { base, slice, weights, activations, states, peak } = memory;
  switch (phase) {
    case "walk":
    case "solve":
    case "scales":
      return base + memory.calibration + states;
    case "evaluate":
      return base + weights + activations + states;
    case "other":
      return peak;
    default:
      return base + (calibration ? Math.max(slice, memory.calibration) : slice) + states;
  }
}

function usesOf(
  phases: PhaseUses,
): Pick<ReportDocument["blocks"][number], "peak_bytes" | "seconds"> {
  const uses = Object.entries(phases);
  return {
    peak_bytes: Math.max(0, ...uses.map(([, { peakBytes }]) => peakBytes)),
    seconds: Object.fromEntries(uses.map(([phase, { seconds }]) => [phase, seconds])),
  };
}

function weightsOf({ units }: Plan, { tensors, distributions }: RunReport): ReportWeight[] {
  const tasks = new Map(
    units.flatMap((unit) => quantizeTasks([unit]).map((task) => [task.name, { unit, task }])),
  );
  const places = placesOf(tensors.map(({ name }) => name));
  return tensors.map((tensor, i) => {
    const { unit, task } = tasks.get(tensor.name)!;
    const [rows, columns] = matrixShape(task.weight.shape);
    const { depth, kind } = places[i]!;
    const { calibration: facts } = tensor;
    return {
      name: tensor.name,
      block: unit.name,
      depth,
      kind,
      rows,
      columns,
      scheme: tensor.scheme,
      ...schemeNumbers(task),
      method: facts?.method ?? task.chain.name,
      fallback: facts?.fallback ?? null,
      bits_per_weight: tensor.bitsPerWeight,
      source_bytes: byteLength(task.weight),
      stored_bytes: sum(task.outputs, byteLength),
      metrics: tensor.metrics,
      output_error: facts?.outputError ?? null,
      loss: facts?.loss ?? null,
      expected_loss: facts?.expectedLoss ?? null,
      loss_bound: facts?.lossBound ?? null,
      block_error_before: facts?.tuning?.before ?? null,
      block_error: facts?.tuning?.after ?? null,
      damping: facts?.damping ?? null,
      strength: facts?.strength ?? null,
      input_scale: facts?.inputScale ?? null,
      tokens: facts?.tokens ?? null,
      distribution: distributions.get(tensor.name) ?? null,
    };
  });
}

function schemeNumbers(
  { scheme }: Pick<QuantizeTask, "scheme">,
): Pick<ReportWeight, "bits" | "group_size"> {
  const group = "block" in scheme
    ? scheme.block
    : "strategy" in scheme && scheme.strategy.kind === "group"
    ? scheme.strategy.size
    : null;
  return { bits: codeBits(scheme), group_size: group };
}

/** The metrics that were measured, in the order of table columns. */
export function measuredMetrics({ weights }: Pick<ReportDocument, "weights">): string[] {
  return METRICS.map(({ name }) => name)
    .filter((name) => weights.some(({ metrics }) => name in metrics));
}
