/** What a suite of fault cases is: each case has a number, by which it can be run again alone. */
import type { Work } from "../resume_given.ts";
import { tinyWindows } from "../run_given.ts";

/** Cases that are ready to be run. */
export interface Cases extends AsyncDisposable {
  readonly count: number;
  /**
   * Run one; it throws where the product does not do what it should.
   *
   * @returns What became of it, in a word, to be counted.
   */
  run(index: number): Promise<string>;
}

/** A suite, by its name in the plan of faults. */
export interface Suite {
  readonly id: string;
  readonly title: string;
  /** How many of its cases the ordinary tests run; 0 where each takes minutes. */
  readonly share: number;
  /** Why it cannot be run here, if it cannot. */
  readonly absent?: string | undefined;
  /** Get the cases ready; all that is drawn in them comes of the seed. */
  open(seed: number): Promise<Cases>;
}

const WINDOWS = {
  evaluation: { windows: tinyWindows(2, 16), stateBudget: 1e7 },
  calibration: { windows: tinyWindows(3, 32), stateBudget: 1e7 },
};

/** The sample model, rounded, in one file. */
export const ROUNDED: Pick<Work, "model" | "options" | "evaluation" | "calibration"> = {
  model: "sample/model",
  options: { scheme: "NF4" },
  evaluation: WINDOWS.evaluation,
};

/** The sample model, calibrated, in several files. */
export const CALIBRATED: typeof ROUNDED = {
  model: "sample/model",
  options: { scheme: "W4A16", "group-size": 64, method: "gptq", "max-shard-size": "1MB" },
  ...WINDOWS,
};
