/** Tables of text: columns apart by two spaces, no lines, so that they can be cut and searched. */
import defer * as cliTable from "cli-table3";

/** One column. */
export interface Column {
  readonly head: string;
  readonly align?: "left" | "right";
}

const NO_LINES = Object.fromEntries(
  [
    ...["top", "top-mid", "top-left", "top-right", "bottom", "bottom-mid", "bottom-left"],
    ...["bottom-right", "left", "left-mid", "mid", "mid-mid", "right", "right-mid"],
  ].map((place) => [place, ""]),
);

/** A table with a head; no trailing spaces, a newline at its end. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  return render(rows, {
    head: columns.map(({ head }) => head),
    colAligns: columns.map(({ align = "left" }) => align),
  });
}

/** A table of names and values without a head. */
export function pairs(rows: readonly (readonly [name: string, value: string])[]): string {
  return render(rows, {});
}

function render(
  rows: readonly (readonly string[])[],
  options: { head?: string[]; colAligns?: ("left" | "right")[] },
): string {
  const grid = new cliTable.default({
    ...options,
    chars: { ...NO_LINES, middle: "  " },
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  });
  grid.push(...rows.map((row) => [...row]));
  return grid.toString().split("\n").map((line) => line.trimEnd()).join("\n") + "\n";
}
