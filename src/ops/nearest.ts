/**
 * What the ops share that choose among the values of any grid: the nearest one, defined here and in
 * shaders/nearest.wgsl.
 */
import tables from "../../shaders/codebook.wgsl" with { type: "text" };
import wgsl from "../../shaders/nearest.wgsl" with { type: "text" };
import { CODEBOOKS } from "./codebook.ts";
import { e4m3ToF32, f32ToE4m3 } from "../number.ts";
import type { Scalars } from "../op.ts";
import { checkGrid, codeOf, codeRange } from "./grid.ts";

/** `kind` by number: what values a weight may take. */
export const VALUE_KINDS = ["int", "fp8", "nf4", "fp4"] as const;

/** WGSL of `nearest`, to be put before a shader that calls it. */
export const NEAREST_WGSL: string = tables + wgsl;

/**
 * The value of a grid nearest to a weight, as f32; for the codebooks `scale` is the absmax of the
 * block.
 */
export function nearestValue(
  weight: number,
  { scale, zero }: { readonly scale: number; readonly zero: number },
  { kind = 0, bits = 0, grid = 0 }: Scalars,
): number {
  if (kind === 0) {
    const code = codeOf(weight, { scale, zero, ...codeRange({ bits, grid }) });
    return Math.fround((code - zero) * scale);
  }
  if (kind === 1) return Math.fround(e4m3ToF32(f32ToE4m3(Math.fround(weight / scale))) * scale);
  const { table, order, bounds } = CODEBOOKS[kind - 2]!;
  const level = scale === 0 ? 0 : Math.fround(weight * Math.fround(1 / scale));
  const rank = bounds.filter((bound) => level > bound).length;
  return Math.fround(table[order[rank]!]! * scale);
}

/** Why `kind` and its grid are not ones the ops know, or `true`. */
export function checkValues({ kind = 0, bits = 0, grid = 0 }: Scalars): true | string {
  if (!(kind in VALUE_KINDS)) return `kind must be 0 (int) to 3 (fp4), got ${kind}`;
  return kind === 0 ? checkGrid({ bits, grid }) : true;
}
