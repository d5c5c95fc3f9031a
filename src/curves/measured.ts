/** What was measured of rate and distortion, as data. */

/** One scheme on one set of data. */
export interface CurvePoint {
  /** The data's name. */
  readonly data: string;
  /** The line that it is a point of. */
  readonly line: string;
  readonly scheme: string;
  readonly uniform: boolean;
  /** Bits a weight, scales and tables included. */
  readonly bits: number;
  /** Mean squared error as a share of the mean square of the data. */
  readonly distortion: number;
  /** The same in decibels: −10·log₁₀. */
  readonly sqnrDb: number;
}

/** The SQNR in decibels that no code of so many bits a weight exceeds, by Shannon's bound. */
export function boundDb(bound: number, bits: number): number {
  return -10 * Math.log10(bound * 2 ** (-2 * bits));
}

/** What was measured. */
export interface Curves {
  readonly model: string;
  readonly seed: number;
  readonly data: readonly {
    readonly name: string;
    readonly rows: number;
    readonly columns: number;
    /** Whether it is a weight of the model. */
    readonly weight: boolean;
    /** Shannon's bound is this times 2^(−2·bits); see `DataSet`. */
    readonly bound: number;
  }[];
  readonly points: readonly CurvePoint[];
  /** Levels of 3 bits on the normal distribution, ascending: what the widths of steps look like. */
  readonly levels: { readonly uniform: readonly number[]; readonly lloydMax: readonly number[] };
}
