/** What a plan is: data, made from headers alone. */
import type { MatrixPlaces } from "../backend.ts";
import type { Layout } from "../container.ts";
import type { Model } from "../family.ts";
import type { Format, Verdict } from "../format.ts";
import type { Recipe } from "../recipe.ts";
import type { Warning } from "../report.ts";
import type { Unit } from "./tasks.ts";

/** One output file of tensors, to the byte. */
export interface PlannedFile extends Layout {
  readonly path: string;
}

/** A file beside the weights: made here, or carried along from the source. */
export interface Sidecar {
  readonly path: string;
  readonly size: number;
  /** Absent: the source's file of the same path. */
  readonly bytes?: Uint8Array<ArrayBuffer>;
}

/**
 * How many windows will walk through a model: to measure it while it is quantized, or to calibrate
 * on.
 */
export interface WindowsRequest {
  /** Tokens per window. */
  readonly seqLen: number;
  /** Windows that will run. */
  readonly windows: number;
  /** Bytes of hidden states kept in memory; more are spilled to disk. */
  readonly stateBudget: number;
  /** Most tokens that walk together, a window at least; absent: as many as the device likes. */
  readonly stackTokens?: number;
  /**
   * Parts of the windows, as equal as they can be, whose sums are made apart and then added in
   * order, so that each may be made on another machine: 1 unless given.
   */
  readonly shards?: number;
}

/** Windows that walk through the model. */
export interface Walks {
  readonly evaluation?: WindowsRequest;
  readonly calibration?: WindowsRequest;
}

/** Where the memory of a run goes. */
export interface MemoryPlan {
  /** The runtime, the compiled program and the device's own needs; measured, not computed. */
  readonly base: number;
  /** The largest tensor slice on its way: read ahead, on the device, quantized, packed. */
  readonly slice: number;
  /** The block under evaluation: its weights in both streams, and its packed bytes. */
  readonly weights: number;
  /**
   * The block under calibration: its weights and their codes, statistics and factors of one step, a
   * slice at work.
   */
  readonly calibration: number;
  /**
   * Hidden states of all windows that are kept in memory, of the evaluation and of the calibration.
   */
  readonly states: number;
  /** One window's activations and one chunk of logits. */
  readonly activations: number;
  /** The most that the process holds at once; what lies on a GPU of its own is not counted. */
  readonly peak: number;
  /** The most that lies on the device at once: of the parts, what is not on the host. */
  readonly device: number;
  /** Of matrices, the most that lies on disk at once, which neither holds. */
  readonly disk: number;
}

/** What will be done. */
export interface Plan extends Walks {
  readonly recipe: Recipe;
  readonly source: { readonly id: string; readonly label: string };
  /** The device it was made for: slices depend on it, codes do not. */
  readonly device: string;
  readonly format: Format;
  /** Present when the architecture is known; needed for evaluation. */
  readonly model: Model | undefined;
  readonly units: readonly Unit[];
  readonly files: readonly PlannedFile[];
  readonly sidecars: readonly Sidecar[];
  /** Stored bits per weight of the quantized weights, scales and all included. */
  readonly bitsPerWeight: number;
  /** Elements of the quantized weights. */
  readonly quantizedWeights: number;
  /** Bytes of all output files. */
  readonly totalBytes: number;
  /** Bytes of the source's tensors. */
  readonly sourceBytes: number;
  readonly memory: MemoryPlan;
  /** Where large matrices lie; undefined where they lie as all others do. */
  readonly matrixPlaces: MatrixPlaces | undefined;
  /** The measurement, with as much memory for hidden states as the budgets leave. */
  readonly evaluation?: WindowsRequest;
  /** The calibration, likewise; present when a method needs one. */
  readonly calibration?: WindowsRequest;
  /**
   * Whether targets are moved in the calibration, for which the original's hidden states walk
   * along.
   */
  readonly propagate: boolean;
  /** Whether blocks are trained, for which windows' states at their begin and end are kept. */
  readonly tuned: boolean;
  /** Bytes of hidden states on disk at once. */
  readonly spilledBytes: number;
  /**
   * Bytes of the carry on disk at once, at most, if the run is to go on after it was stopped: that
   * of one unit, and that of the next while it is written.
   */
  readonly carryBytes: number;
  readonly loaders: readonly Verdict[];
  /** What a user should know before the run, which reports it. */
  readonly warnings: readonly Warning[];
}

/** What a plan needs to know of windows that were prepared. */
export function requestOf(
  { seqLen, windows, stateBudget, stackTokens, shards }: Omit<WindowsRequest, "windows"> & {
    readonly windows: { readonly length: number };
  },
): WindowsRequest {
  const most = stackTokens === undefined ? {} : { stackTokens };
  const parts = shards === undefined ? {} : { shards };
  return { seqLen, windows: windows.length, stateBudget, ...most, ...parts };
}
