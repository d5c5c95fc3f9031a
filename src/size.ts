/** Sizes in bytes as a person reads them, and as an option takes them. Pure. */
import prettyBytes from "pretty-bytes";

/** Bytes in decimal units, as file managers and the Hub show them: `8.13 MB`. */
export function size(bytes: number): string {
  return prettyBytes(bytes, { space: true });
}

const UNITS = ["B", "kB", "MB", "GB", "TB"] as const;

/**
 * Bytes as an option of type `bytes` takes them, rounded up to three digits, so that what is needed
 * fits: `324MB` for 323,720,256.
 */
export function sizeToGive(bytes: number): string {
  let power = 0;
  while (power < UNITS.length - 1 && bytes >= 1000 ** (power + 1)) power++;
  const decimals = power === 0
    ? 0
    : Math.max(0, 3 - Math.trunc(bytes / 1000 ** power).toString().length);
  const digits = Math.ceil(bytes * 10 ** decimals / 1000 ** power);
  return `${digits / 10 ** decimals}${UNITS[power]}`;
}
