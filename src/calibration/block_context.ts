/** What quantizing a block takes, for all that have a part in it. */
import type { Backend, Scope } from "../backend.ts";
import type { Model } from "../family.ts";
import type { LoadedBlock } from "../forward/loaded_block.ts";
import type { ModelWeights } from "../forward/weights.ts";
import type { TensorTask } from "../plan/tasks.ts";
import type { Reporter } from "../report.ts";
import type { Trace } from "../trace.ts";
import type { Calibration } from "./pass.ts";

/** See the head of this file. */
export interface BlockContext {
  /** What becomes of the block's tensors. */
  readonly tasks: readonly TensorTask[];
  /** Whether targets are moved. */
  readonly propagate: boolean;
  /** Whether windows go on through the weights as they were. */
  readonly float: boolean;
  readonly backend: Backend;
  readonly calibration: Calibration;
  /** The block as the checkpoint has it. */
  readonly original: LoadedBlock;
  /** The model as the checkpoint has it. */
  readonly model: Model;
  readonly originals: ModelWeights;
  /** Where what lasts until the block is packed is allocated. */
  readonly scope: Scope;
  readonly report: Reporter;
  readonly trace: Trace;
  /** Measure the error of each weight's output. */
  readonly metrics?: boolean;
  readonly signal?: AbortSignal | undefined;
}
