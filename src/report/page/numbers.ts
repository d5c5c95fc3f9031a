/** Numbers as the page shows them. */
import * as sizes from "../../size.ts";

/** Bytes in decimal units; what was not sampled is a dash. */
export function size(bytes: number): string {
  return bytes > 0 ? sizes.size(bytes) : NONE;
}

/** What stands for a number that there is not. */
export const NONE = "–";

/** Three digits that count: `0.0123`, `1.20e-5`. */
export function short(x: number | null | undefined, digits = 3): string {
  if (x === null || x === undefined) return NONE;
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(digits - 1);
  return size >= 10 ** (digits - 1) ? x.toFixed(0) : x.toPrecision(digits);
}

/** As {@linkcode short}, without zeros that only fill up: for a number in a sentence. */
export function plain(x: number): string {
  return String(Number(x.toPrecision(3)));
}

/** A moment as ISO 8601 has it, for people. */
export function moment(iso: string): string {
  return iso.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d).*Z$/, "$1 $2 UTC");
}

/** So many decimals. */
export function fixed(x: number | null | undefined, decimals: number): string {
  return x === null || x === undefined ? NONE : Number.isFinite(x) ? x.toFixed(decimals) : short(x);
}

/** A whole number with separators. */
export function count(n: number): string {
  return n.toLocaleString("en-US");
}

/** Seconds: `0.42 s`, `42 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(seconds < 0.995 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const pad = (n: number) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole / 60) % 60)} min`;
}

/** How much more or less, in percent. */
export function change(before: number, after: number): string {
  const percent = (after / before - 1) * 100;
  if (!Number.isFinite(percent)) return short(percent);
  return `${percent >= 0 ? "+" : "−"}${Math.abs(percent).toFixed(2)} %`;
}
