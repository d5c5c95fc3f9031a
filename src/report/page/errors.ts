/**
 * How much each layer lost, how that compares with what was to be expected, and what the method was
 * set to.
 */
import { errorOfSqnr } from "../along_depth.ts";
import type { ReportDocument, ReportWeight } from "../document.ts";
import { drawPanels, MOST_PANELS, type Panel, panelsByKind, type Series } from "./by_depth.ts";
import { html, type Markup } from "./markup.ts";
import { count, plain, short } from "./numbers.ts";

const OUTPUT: Series = {
  name: "error of the output",
  color: "var(--one)",
  value: ({ output_error }) => output_error,
};

const WEIGHTS: Series = {
  name: "error of the weights",
  color: "var(--two)",
  dash: [4, 3],
  value: ({ metrics: { sqnr_db } }) => errorOfSqnr(sqnr_db) ?? null,
};

/** The section of errors; undefined when none were measured. */
export async function errorSection(
  { weights, propagate, calibrate_on }: ReportDocument,
): Promise<Markup | undefined> {
  const measured = [OUTPUT, WEIGHTS].filter(({ value }) =>
    weights.some((weight) => value(weight) !== null)
  );
  if (measured.length === 0) return undefined;
  const series = measured.filter(({ value }) => weights.some((weight) => value(weight)! > 0));
  const intended = propagate === true &&
    " Targets were moved to make up for the error of earlier blocks: a part of what differs from W is meant to, most of all in linears whose output is added to the residual stream.";
  const model = calibrate_on === "float" ? "original" : "quantized";
  const output = series.includes(OUTPUT) &&
    html`
      Of the output: tr(E·H·Eᵀ) / tr(W·H·Wᵀ), with E what was added to the weights W and H the Gram matrix of the layer’s input in the ${model} model; 0.01 means that a hundredth of the output’s power is error.${intended}
    `;
  const panels = panelsByKind(weights);
  const charts = series.length === 0
    ? html`<p>No weight differs from what it was.</p>`
    : panels.length > 0
    ? await drawPanels(panels, { series, scale: "log", what: "Errors" })
    : html`<p>The weights’ names have no layer numbers; the table below has every weight.</p>`;
  return html`<section id="errors"><h2>Error of each layer</h2>
<p>Squared and relative, on a logarithmic scale.${output} Of the weights: Σ(w − ŵ)² / Σw², which is what SQNR says in decibels.</p>
${charts}${tooMany(weights)}</section>`;
}

function tooMany(weights: readonly ReportWeight[]): Markup | undefined {
  const kinds = new Set(weights.map(({ kind }) => kind)).size;
  if (kinds <= MOST_PANELS) return undefined;
  return html`<p>${count(kinds - MOST_PANELS)} more kinds of weights are in the table only.</p>`;
}

/** Of its bound: the expectation is always a third. */
const LOSS: readonly Series[] = [
  {
    name: "loss / bound",
    color: "var(--one)",
    value: ({ loss, loss_bound }) => loss !== null && loss_bound ? loss / loss_bound : null,
  },
  { name: "expected", color: "var(--two)", dash: [4, 3], value: () => 1 / 3 },
  { name: "bound", color: "var(--three)", dash: [1, 3], value: () => 1 },
];

/** The section of GPTQ's loss; undefined when no weight has one. */
export async function lossSection({ weights }: ReportDocument): Promise<Markup | undefined> {
  const able = weights.filter(({ loss }) => loss !== null);
  if (able.length === 0) return undefined;
  const compared = able.filter(({ loss_bound }) => loss_bound);
  const ratios = compared.map(({ loss, expected_loss }) => loss! / expected_loss!)
    .sort((a, b) => a - b);
  const over = compared.filter(({ loss, loss_bound }) => loss! > loss_bound!);
  const median = ratios[ratios.length >> 1];
  const said = median === undefined
    ? html`
      For grids other than int they are not defined.
    `
    : html`
      Here the loss is ${short(median)} times what was expected (the median of ${count(
        ratios.length,
      )} weights; from ${short(ratios[0])} to ${short(ratios.at(-1))}).
    `;
  return html`<section id="loss"><h2>GPTQ’s loss against what could be told before</h2>
<p>The loss is Σe²/2 per token, e = (w − q)/Uᵢᵢ. Before a code is chosen, scales s and factor U give a bound where nothing is clipped, Σs²/8·Σ1/Uᵢᵢ², and a third of it is expected of errors that are spread evenly.${said}${
    over.length > 0 &&
    html`
      ${count(over.length)} ${over.length === 1
        ? "is"
        : "are"} above the bound: weights that had to make up for errors of others were clipped.
    `
  }</p>
${
    compared.length > 0 &&
    await drawPanels(panelsByKind(compared), { series: LOSS, scale: "linear", what: "Loss" })
  }</section>`;
}

/** The section of damping and of moved scales; undefined when there were none. */
export async function settingsSection({ weights }: ReportDocument): Promise<Markup | undefined> {
  const damping = await setting(weights, {
    name: "Damping",
    value: ({ damping }) => damping,
    says:
      "λ, as a share of the mean of the Gram matrix’s diagonal, that was added to it so that it could be factored",
    scale: "log",
  });
  const moved = weights.some(({ strength }) => strength !== null);
  const strength = moved && await setting(weights, {
    name: "Strength",
    value: ({ strength, tokens }) => tokens === null ? null : strength ?? 0,
    says:
      "the exponent (AWQ) or α (SmoothQuant) with which scales were moved from weights to what makes their input; 0: none were moved",
    scale: "linear",
  });
  if (!damping && !strength) return undefined;
  return html`<section id="settings"><h2>Damping and moved scales</h2>${damping}${strength}</section>`;
}

async function setting(
  weights: readonly ReportWeight[],
  { name, value, says, scale }: {
    name: string;
    value: (weight: ReportWeight) => number | null;
    says: string;
    scale: "log" | "linear";
  },
): Promise<Markup | undefined> {
  const given = weights.filter((weight) => value(weight) !== null);
  if (given.length === 0) return undefined;
  const title = html`<h3>${name}</h3>`;
  const [first, ...others] = new Set(given.map((weight) => value(weight)!));
  if (others.length === 0) {
    return html`${title}<p>${plain(first!)} for ${
      given.length === weights.length ? "every weight" : `${count(given.length)} weights`
    }: ${says}.</p>`;
  }
  const series: Series = { name: name.toLowerCase(), color: "var(--one)", value };
  const panels = alike(panelsByKind(given), value);
  return html`${title}<p>${
    says[0]!.toUpperCase() + says.slice(1)
  }. Linears that read one input share it.</p>
${await drawPanels(panels, { series: [series], scale, what: name })}`;
}

/** Kinds whose weights have the same numbers are one panel. */
function alike(
  panels: readonly Panel[],
  value: (weight: ReportWeight) => number | null,
): Panel[] {
  const groups = Map.groupBy(
    panels,
    ({ weights }) => JSON.stringify(weights.map((weight) => [weight.depth, value(weight)])),
  );
  return [...groups.values()].map((group) => ({
    title: group.map(({ title }) => title).join(", "),
    weights: group[0]!.weights,
  }));
}
