/**
 * A run's timeline as a picture: bytes in, the busy device, bytes out, over the seconds of the run.
 */
import type { Timeline } from "../trace.ts";

/**
 * Draw it as an SVG, by Vega-Lite. The library is loaded only here: it is large, and most runs draw
 * nothing.
 */
export async function timelineSvg(timeline: Timeline, title: string): Promise<string> {
  const [vega, vegaLite] = await Promise.all([import("vega"), import("vega-lite")]);
  const { step } = timeline;
  const rows = (what: string, values: readonly number[], scale: number) =>
    values.map((value, i) => ({ what, from: i * step, to: (i + 1) * step, value: value * scale }));
  const values = [
    ...rows("read, MB/s", timeline.read, 1e-6 / step),
    ...rows("device busy, %", timeline.compute, 100 / step),
    ...rows("written, MB/s", timeline.write, 1e-6 / step),
  ];
  const { spec } = vegaLite.compile({
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title,
    background: "white",
    data: { values },
    facet: {
      row: {
        field: "what",
        sort: ["read, MB/s", "device busy, %", "written, MB/s"],
        title: null,
        header: { labelAngle: 0, labelAlign: "left" },
      },
    },
    resolve: { scale: { y: "independent" } },
    spec: {
      width: 640,
      height: 90,
      mark: { type: "bar", binSpacing: 0 },
      encoding: {
        x: { field: "from", type: "quantitative", bin: "binned", title: "seconds" },
        x2: { field: "to" },
        y: { field: "value", type: "quantitative", title: null },
        color: { field: "what", type: "nominal", legend: null },
      },
    },
  });
  return await new vega.View(vega.parse(spec), { renderer: "none" }).toSVG();
}
