/**
 * The pictures of a run, drawn from its record: errors of layers, the residual stream along depth,
 * where the bits went. There is a picture only where it tells something. A record is anybody's text,
 * so names of it are escaped, and what is drawn is bounded.
 */
import { escapeControls } from "../errors.ts";
import type { AlongDepth, KindAlongDepth } from "./along_depth.ts";
import { axisOf, describe, linesOf, type Point } from "./page/by_depth.ts";
import { drawChart } from "./page/chart.ts";
import { html } from "./page/markup.ts";
import { count, plain } from "./page/numbers.ts";
import {
  chartPiece,
  legendPiece,
  pictureOf,
  type Piece,
  shortened,
  WIDTH,
} from "./page/picture.ts";
import { drawLine } from "./page/stream.ts";
import type { RunRecord } from "./record.ts";

/** A picture, as a file, and what it shows in words. */
export interface Picture {
  /** Of the repository. */
  readonly path: string;
  /** SVG. */
  readonly text: string;
  readonly title: string;
  /** For those who do not see it. */
  readonly description: string;
}

/** The folder of pictures. */
const FOLDER = "sluice_report";

const HEIGHT = 200;

/** Kinds of linears that are drawn; of more, those with the largest errors. */
const MOST_LINES = 10;
const MOST_ROWS = 40;

/** Layers that are drawn. */
const MOST_LAYERS = 1024;

/** The pictures that a record has something for. */
export async function picturesOf(
  { along_depth: along, schemes }: Pick<RunRecord, "along_depth" | "schemes">,
): Promise<Picture[]> {
  if (!along) return [];
  // One scheme has somewhat other widths where matrices have other shapes.
  const bits = schemes.length > 1 ? bitsPicture(along) : undefined;
  const made = [await errorPicture(along), await streamPicture(along), bits];
  return made.filter((picture) => picture !== undefined);
}

/** A kind's name, in a sentence. */
function named({ kind }: KindAlongDepth): string {
  return escapeControls(shortened(kind, 60));
}

type Drawing = Pick<Picture, "title" | "description"> & { readonly pieces: readonly Piece[] };

function asFile(name: string, { pieces, title, description }: Drawing): Picture {
  const text = pictureOf(pieces, { title, description });
  return { path: `${FOLDER}/${name}.svg`, text, title, description };
}

/** Errors of outputs, or of weights where more have those: a line for each kind. */
async function errorPicture({ kinds }: AlongDepth): Promise<Picture | undefined> {
  const unknown = (key: "output_error" | "weight_error") =>
    kinds.flatMap((kind) => kind[key]).filter((error) => error === null).length;
  // Weights that were rounded without a text have no error of the output.
  const ofOutput = unknown("output_error") <= unknown("weight_error");
  const pointsOf = (kind: KindAlongDepth): Point[] =>
    (ofOutput ? kind.output_error : kind.weight_error).flatMap((y, i) =>
      y === null || y <= 0 ? [] : [{ x: kind.layers[i]!, y, series: kind.kind, fallback: false }]
    ).slice(0, MOST_LAYERS);
  const most = (points: readonly Point[]) => Math.max(...points.map(({ y }) => y));
  const all = kinds.map((kind) => ({ ...kind, kind: named(kind) }))
    .map((kind) => ({ kind: kind.kind, points: pointsOf(kind) }))
    .filter(({ points }) => points.length > 0);
  const worst = new Set(
    all.toSorted((a, b) => most(b.points) - most(a.points)).slice(0, MOST_LINES),
  );
  const drawn = all.filter((line) => worst.has(line));
  if (drawn.length === 0) return undefined;
  const title = `Error of each layer’s ${ofOutput ? "output" : "weights"}, relative and squared`;
  const description = drawn.map(({ kind, points }) => describe(kind, points)).join(" ") +
    (drawn.length < all.length
      ? ` ${count(all.length - drawn.length)} kinds with less error are not shown.`
      : "");
  // Names from a model are beside the chart, not in it.
  const lines = drawn.map(({ kind, points }, i) => ({
    entry: { name: kind, color: `var(--p${(i + 1) % MOST_LINES})` },
    points: points.map((point) => ({ ...point, series: String(i) })),
  }));
  const points = lines.flatMap(({ points }) => points);
  const spec = linesOf(points, {
    series: lines.map(({ entry: { color } }, i) => ({ name: String(i), color })),
    marked: lines.map((_, i) => String(i)),
    axis: axisOf(points.map(({ y }) => y), "log"),
    last: Math.max(1, ...points.map(({ x }) => x)),
    scale: "log",
  });
  const size = { width: WIDTH, height: HEIGHT };
  const chart = await drawChart({ ...spec, ...size }, { title, description });
  const legend = legendPiece(lines.map(({ entry }) => entry));
  return asFile("error_by_layer", {
    title,
    description,
    pieces: [chartPiece(chart, HEIGHT), legend],
  });
}

/** The residual stream's error behind each block. */
async function streamPicture({ stream_error }: AlongDepth): Promise<Picture | undefined> {
  const values = (stream_error ?? []).slice(0, MOST_LAYERS)
    .flatMap((y, x) => y === null ? [] : [{ x, y }]);
  if (values.length < 2) return undefined;
  const title = "Error of the residual stream behind each block";
  const size = { width: WIDTH, height: HEIGHT };
  const { chart, description } = await drawLine(values, { title, axis: "block", size });
  return asFile("error_along_depth", { title, description, pieces: [chartPiece(chart, HEIGHT)] });
}

/** Room for the names of rows, and height of a row. */
const NAMES = 150;
const ROW = 16;

/** Widths, stronger where there are more bits; where all have one width there is nothing to see. */
function bitsPicture({ kinds }: AlongDepth): Picture | undefined {
  const rows = kinds.slice(0, MOST_ROWS);
  const last = Math.min(MOST_LAYERS, Math.max(...rows.flatMap(({ layers }) => layers)) + 1);
  const all = rows.flatMap(({ bits }) => bits);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  if (!(most > least)) return undefined;
  const cell = (WIDTH - NAMES) / last;
  const opacity = (bits: number) =>
    Math.min(1, Math.max(0.15, 0.15 + 0.85 * (bits - least) / (most - least))).toFixed(2);
  const names = rows.map(({ kind }, row) =>
    html`<text x="0" y="${row * ROW + 12}" fill="var(--muted)">${shortened(kind, 22)}</text>`
  );
  const cells = rows.map(({ layers, bits }, row) =>
    layers.map((layer, i) =>
      layer < last &&
      html`
        <rect x="${(NAMES + layer * cell).toFixed(2)}" y="${row * ROW}" width="${(cell * 0.94)
          .toFixed(2)}" height="${ROW - 1}" fill="var(--one)"
          fill-opacity="${opacity(bits[i]!)}" />
      `
    )
  );
  const below = rows.length * ROW + 12;
  const ends = html`
    <text x="${NAMES}" y="${below}" fill="var(--muted)">layer 0</text>
    <text x="${WIDTH}" y="${below}" text-anchor="end" fill="var(--muted)">${last - 1}</text>
  `;
  const widths = [...new Set(all.map((bits) => Number(bits.toFixed(1))))].sort((a, b) => a - b);
  const shown = widths.length <= 3 ? widths : [least, (least + most) / 2, most];
  const keys = shown.map((bits, i) =>
    html`
      <rect x="${NAMES + i * 86}" y="${below + 12}" width="14" height="11" fill="var(--one)"
        fill-opacity="${opacity(bits)}" />
      <text x="${NAMES + i * 86 + 19}" y="${below + 21}" fill="var(--muted)">${plain(
        bits,
      )} bits</text>
    `
  );
  const title = "Bits of each weight, scales included";
  const description = rows.map((row) => {
    const { bits } = row;
    const mean = bits.reduce((a, b) => a + b, 0) / bits.length;
    return `${named(row)}: ${plain(Math.min(...bits))} to ${plain(Math.max(...bits))}, ${
      plain(mean)
    } on average.`;
  }).join(" ");
  const markup = html`${names}${cells}${ends}${keys}`;
  return asFile("bits_by_layer", { title, description, pieces: [{ height: below + 28, markup }] });
}
