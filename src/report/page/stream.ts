/** How errors grow along the depth of a model and along a text. */
import type { ReportDocument } from "../document.ts";
import { axisOf } from "./by_depth.ts";
import { CHART, type ChartSpec, drawChart, PLAIN } from "./chart.ts";
import { html, type Markup } from "./markup.ts";
import { short } from "./numbers.ts";

/** The section of the residual stream; undefined where it was not measured. */
export async function streamSection(
  { stream_error: found, propagate }: ReportDocument,
): Promise<Markup | undefined> {
  if (!found) return undefined;
  const { blocks, positions, tokens_per_position: tokens } = found;
  const { chart: depth } = await drawLine(blocks.map((y, x) => ({ x, y })), {
    title: "Error of the residual stream behind each block",
    axis: "block",
  });
  const { chart: place } = await drawLine(positions.map((y, i) => ({ x: i * tokens, y })), {
    title: "Error of the residual stream behind the last block, by token",
    axis: "token of a window",
  });
  const repaired = propagate === true &&
    " Errors were propagated: the target of each layer was moved to repair those of the blocks before it.";
  return html`
    <section id="stream">
      <h2>Error along depth</h2>
      <p>‖x̃ − x‖ / ‖x‖, with x the residual stream of the original model and x̃ that of the quantized one on the text of the evaluation: what one block adds is the input of the next.${repaired}</p>
      <div class="panels">
        <figure><figcaption>behind each block</figcaption>${depth}</figure>
        <figure><figcaption>behind the last, by token</figcaption>${place}</figure>
      </div>
    </section>
  `;
}

/** A line, from 0, and what it shows in words. */
export async function drawLine(
  values: readonly { readonly x: number; readonly y: number }[],
  { title, axis, size = CHART }: {
    readonly title: string;
    readonly axis: string;
    readonly size?: Readonly<Record<"width" | "height", number>>;
  },
): Promise<{ readonly chart: Markup; readonly description: string }> {
  const { domain, values: ticks } = axisOf(values.map(({ y }) => y), "linear");
  const [first, last] = [values[0]!, values.at(-1)!];
  const spec: ChartSpec = {
    ...size,
    data: { values: [...values] },
    encoding: {
      x: {
        field: "x",
        type: "quantitative",
        title: axis,
        scale: { domain: [0, Math.max(1, last.x)], nice: false, padding: 6 },
        axis: { format: "d", tickMinStep: 1, tickCount: 6, grid: false },
      },
      y: {
        field: "y",
        type: "quantitative",
        title: null,
        scale: { domain: [...domain], nice: false },
        axis: { values: [...ticks], labelExpr: PLAIN },
      },
    },
    layer: [
      { mark: { type: "line", strokeWidth: 1.5, color: "var(--one)" } },
      { mark: { type: "point", filled: true, size: 14, opacity: 1, color: "var(--one)" } },
    ],
  };
  const description = `From ${short(first.y)} at ${axis} ${first.x} to ${
    short(last.y)
  } at ${last.x}.`;
  return { chart: await drawChart(spec, { title, description }), description };
}
