/**
 * What a conformance case is, and how the outputs of a backend are judged against those of a
 * definition.
 */
import assert from "node:assert/strict";
import type { Op, Scalars } from "../../src/op.ts";
import { type Seen, U } from "../../src/sampling.ts";
import type { Given, Values } from "./given.ts";

export { U };

/** What a judge sees of one run. */
export interface View extends Seen {
  /**
   * Equally right outputs: what the definition gives when subnormal numbers are taken for zero, as
   * a GPU may.
   */
  readonly also: Readonly<Record<string, Values>>;
  /**
   * Whether arithmetic is IEEE f32; WGSL lets division, exp and sqrt be a few units off, and
   * subnormals be zero.
   */
  readonly exact: boolean;
}

/** Throws when an output is wrong. */
export type Judge = (view: View, output: string) => void;

/** One call of an op. */
export interface Case {
  readonly op: Op;
  readonly tensors: Readonly<Record<string, Given>>;
  readonly scalars?: Scalars;
  /** What is special about the input, for the test's name. */
  readonly note?: string;
  /** How outputs are compared; those not named must be equal. */
  readonly judge?: Readonly<Record<string, Judge>>;
  /**
   * Leave out backends whose arithmetic is not IEEE f32: the case has infinities in it, which WGSL
   * may assume away.
   */
  readonly ieeeOnly?: true;
}

/** Same number, or NaN both; 0 and −0 are one. */
function same(a: number, b: number): boolean {
  return a === b || (a !== a && b !== b);
}

/** Every element equal. */
export function equal({ got, want, also }: View, output: string): void {
  got[output]!.forEach((value: number, i: number) => {
    if (same(value, want[output]![i]!) || same(value, also[output]![i]!)) return;
    assert.fail(`${output}[${i}] is ${value}, not ${want[output]![i]}`);
  });
}

/** Every element within the error that `bound` allows it. */
export function within(bound: (view: View) => ArrayLike<number>): Judge {
  return (view, output) => {
    const { got, want, also } = view;
    const allowed = bound(view);
    got[output]!.forEach((value: number, i: number) => {
      for (const right of [want[output]![i]!, also[output]![i]!]) {
        if (same(value, right) || Math.abs(value - right) <= allowed[i]!) return;
      }
      assert.fail(
        `${output}[${i}] is ${value}, not ${want[output]![i]} ± ${allowed[i]}`,
      );
    });
  };
}

/**
 * Equal where arithmetic is exact. Elsewhere an element may differ whose value before rounding is
 * so near to a tie that an allowed error of a division decides it, and no more than one in a
 * thousand (or two).
 */
export function equalButTies(
  near: (view: View) => ArrayLike<boolean>,
  unpack: (codes: Values) => Values = (codes) => codes,
): Judge {
  return (view, output) => {
    if (view.exact) return equal(view, output);
    const [got, want, also] = [view.got, view.want, view.also].map((of) => unpack(of[output]!));
    const tie = near(view);
    let differ = 0;
    got!.forEach((value: number, i: number) => {
      if (value === want![i] || value === also![i]) return;
      differ++;
      assert.ok(tie[i], `${output}[${i}] is ${value}, not ${want![i]}, and there is no tie`);
    });
    assert.ok(
      differ <= Math.max(2, got!.length / 1000),
      `${differ} of ${got!.length} codes differ at ties`,
    );
  };
}

/** Judges of an op's outputs by what it says itself of how far they may be off. */
export function judgesOf({ sampling }: Op): Record<string, Judge> {
  const judges = [
    ...Object.entries(sampling?.bounds ?? {}).map(([output, bound]) =>
      [output, within(bound)] as const
    ),
    ...Object.entries(sampling?.ties ?? {}).map(([output, { near, unpack }]) =>
      [output, equalButTies(near, unpack)] as const
    ),
  ];
  assert.ok(judges.length > 0, "the op says nothing of its outputs");
  return Object.fromEntries(judges);
}

/**
 * Every element the same number with the same sign, zeros too; NaN is NaN, whatever its payload.
 */
export function identical({ got, want, also }: View, output: string): void {
  got[output]!.forEach((value: number, i: number) => {
    if (Object.is(value, want[output]![i]) || Object.is(value, also[output]![i])) return;
    assert.fail(`${output}[${i}] is ${value}, not ${want[output]![i]}`);
  });
}
