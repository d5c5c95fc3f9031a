/** Numbers, times and names as a person reads them. Pure. */
import { escapeControls, quote } from "../errors.ts";

/**
 * A name from a file or a user, fit for a terminal: control and bidirectional characters are
 * escaped.
 */
export function visible(name: string): string {
  return quote(name).slice(1, -1);
}

/** A word of a command line, quoted if a shell would read it otherwise. */
export function shellWord(word: string): string {
  return /^[\w./:@%+,=~-]+$/.test(word) && !word.startsWith("~")
    ? word
    : `'${word.replaceAll("'", `'\\''`)}'`;
}

/**
 * A whole message, fit for a terminal: as {@linkcode visible}, but of any length and with its
 * quotes as they are.
 */
export function visibleMessage(message: string): string {
  return escapeControls(message.replaceAll("\n", " "));
}

/** A count with separators: `4,065,536`. */
export function count(n: number): string {
  // By hand: tables of languages take longer to load than a plan to be made.
  return String(n).replace(/\B(?=(?:\d{3})+$)/g, ",");
}

/** A count and its noun: `1 tensor`, `30 tensors`. */
export function plural(n: number, noun: string): string {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** Seconds: `0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const pad = (n: number) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor(whole / 60) % 60)} min`;
}

/** A measured number: four decimals, or an exponent where those would say nothing. */
export function measured(x: number): string {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x > 0 ? "∞" : "-∞";
  return x !== 0 && Math.abs(x) < 1e-3 ? x.toExponential(2) : x.toFixed(4);
}

/** Numbers as ranges: `{0..29}`, `{0,2..4}`; one number is itself. */
export function ranges(numbers: Iterable<number>): string {
  const sorted = [...new Set(numbers)].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    let end = i;
    while (sorted[end + 1] === sorted[end]! + 1) end++;
    parts.push(end > i + 1 ? `${sorted[i]}..${sorted[end]}` : sorted.slice(i, end + 1).join(","));
    i = end + 1;
  }
  const text = parts.join(",");
  return sorted.length === 1 ? text : `{${text}}`;
}
