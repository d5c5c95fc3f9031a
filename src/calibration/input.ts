/** The tokens of a calibration, as a caller gives them. */
import type { SpillStore } from "../forward/spill_file.ts";
import type { TextFacts } from "../report.ts";

/** Tokens to calibrate on, and where hidden states may go. */
export interface CalibrationInput extends Partial<TextFacts> {
  /** Token ids, one array per window, all of one length. */
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of hidden states kept on the device. */
  readonly stateBudget: number;
  /** Most tokens that walk together, as the plan has it. */
  readonly stackTokens?: number;
  /** Parts of the windows whose sums are made apart, as the plan has it. */
  readonly shards?: number;
  /** Where the rest goes, in bf16; required when the budget is smaller than the states. */
  readonly spill?: SpillStore;
}
