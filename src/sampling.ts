/**
 * How a call of an op is held against its definition in part: which part of a call is a call by
 * itself, and how far from the definition its outputs may be. Ops have one where that can be said
 * (`Op.sampling`); backends/spot_checks.ts checks calls by it while they run, and the conformance
 * suite judges by the same bounds.
 */
import { widenAll } from "./number.ts";

/** Half a unit in the last place of f32, relative: the error of one rounding. */
export const U = 2 ** -24;

/** Elements of a tensor as numbers: floats widened, integers as they are. */
export type Values = Float32Array | Int32Array | Uint32Array | Int8Array | Uint8Array;

/** A call that was made, and what its definition gives. */
export interface Seen {
  readonly dims: Readonly<Record<string, number>>;
  readonly scalars: Readonly<Record<string, number>>;
  /** Every argument before the call. */
  readonly before: Readonly<Record<string, Values>>;
  /** The outputs by the definition. */
  readonly want: Readonly<Record<string, Values>>;
  /** The outputs of the device. */
  readonly got: Readonly<Record<string, Values>>;
}

/** By how much each element of an output may differ; infinity where nothing can be said. */
export type Bound = (call: Seen) => ArrayLike<number>;

/**
 * Codes must be equal but where the value before rounding is as near to a tie as a division that is
 * a few units off decides: there another code is as right.
 */
export interface Ties {
  readonly near: (call: Seen) => ArrayLike<boolean>;
  /** Codes of an output that has several to an element. */
  readonly unpack?: (codes: Values) => Values;
}

/** Some of what a dim counts: from, up to. */
export type Range = readonly [from: number, to: number];

/** A part of a call that is a call by itself. */
export interface Part {
  /** By dim; dims that are not named are whole. */
  readonly ranges: Readonly<Record<string, Range>>;
  /** Scalars that are others for the part. */
  readonly scalars?: Readonly<Record<string, number>>;
}

/** A whole number below a number, by chance. */
export type Draw = (below: number) => number;

/** An element of an output that is not what it should be. */
export interface Wrong {
  readonly output: string;
  readonly index: number;
  /** What it should be, and by how much it may differ. */
  readonly right: number;
  readonly allowed: number;
}

/** See the head of this file. */
export interface Sampling {
  /** A small part of a call, somewhere; undefined where no part of it is small. */
  part(
    dims: Readonly<Record<string, number>>,
    scalars: Readonly<Record<string, number>>,
    draw: Draw,
  ): Part | undefined;
  /** Whether what outputs held before counts. */
  readonly updates?: true;
  /** Outputs that need not be equal. */
  readonly bounds?: Readonly<Record<string, Bound>>;
  /** Outputs of codes that need not be equal at ties. */
  readonly ties?: Readonly<Record<string, Ties>>;
  /**
   * Judges in place of the definition where results depend on those before them, so that one tie
   * may change all that follow: it follows what the device has chosen.
   */
  follow?(call: Omit<Seen, "want">): Wrong | undefined;
}

/** About how many elements of an argument a part has. */
const ELEMENTS = 2048;

/**
 * At most so many of `size` that follow each other, from a multiple of `step` on: somewhere, and
 * often at the end, where a kernel has what is left over from its tiles.
 */
export function stretch(
  size: number,
  draw: Draw,
  { most, step = 1 }: { readonly most: number; readonly step?: number },
): Range {
  const count = Math.max(step, most - most % step);
  const last = Math.max(0, Math.ceil((size - count) / step) * step);
  const from = draw(4) === 0 ? last : draw(last / step + 1) * step;
  return [from, Math.min(size, from + count)];
}

/** Some rows that are so wide. */
export function someRows(
  rows: number,
  draw: Draw,
  { width, step = 1 }: { readonly width: number; readonly step?: number },
): Range {
  return stretch(rows, draw, { most: Math.max(1, Math.floor(ELEMENTS / width)), step });
}

/** A sampling of ops that compute each element by itself, over a dim `N` of all. */
export const ELEMENTWISE = {
  part: ({ N = 0 }, _scalars, draw) => ({
    ranges: { N: stretch(N, draw, { most: ELEMENTS }) },
  }),
} as const satisfies Sampling;

/** Read the elements of a tensor from its bytes. */
export function valuesOf(dtype: string, bytes: Uint8Array): Values {
  const { buffer } = bytes.slice();
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer);
    case "bf16":
    case "f16":
      return widenAll(dtype, new Uint16Array(buffer));
    case "f8_e4m3":
      return widenAll(dtype, new Uint8Array(buffer));
    case "i32":
      return new Int32Array(buffer);
    case "u32":
      return new Uint32Array(buffer);
    case "i8":
      return new Int8Array(buffer);
    case "u8":
      return new Uint8Array(buffer);
  }
  throw new TypeError(`Cannot read elements of ${dtype}: no device has such tensors`);
}
