/** Bits that were chosen, as a table: a row for blocks that are alike, a column for each kind. */
import type { ChosenBits } from "../bits.ts";
import { kindOf } from "../bits/recipe.ts";
import type { Sensitivities } from "../bits/sensitivities.ts";
import { placeOf } from "../report/places.ts";
import { table } from "./table.ts";
import { plural, ranges, visibleMessage } from "./text.ts";

/** What losses are. */
const LOSSES: Readonly<Record<Sensitivities["by"], string>> = {
  divergence: "KL divergence, nats per token",
  gradient: "KL divergence by gradients, nats per token",
  loss: "GPTQ's loss per token",
};

/** The table, and a line of what it adds up to. */
export function showBits(
  { chosen, bitsPerWeight, loss }: ChosenBits,
  { by }: Pick<Sensitivities, "by">,
): string {
  const kinds = [...new Set(chosen.map(({ group: { names } }) => kindOf(names)))];
  const blocks = Map.groupBy(chosen, ({ group: { block } }) => block);
  const rows = [...blocks].map(([block, own]) => {
    const byKind = new Map(own.map(({ group: { names }, option }) => [kindOf(names), option.name]));
    const head = placeOf(own[0]!.group.names[0]!).depth === null;
    return { block, head, cells: kinds.map((kind) => byKind.get(kind) ?? "") };
  });
  const alike = Map.groupBy(rows, ({ cells }) => cells.join());
  return table(
    [{ head: "BLOCK" }, ...kinds.map((kind) => ({ head: visibleMessage(shortOf(kind)) }))],
    [...alike.values()].map((same) => [
      same[0]!.head ? "head" : ranges(same.map(({ block }) => block)),
      ...same[0]!.cells,
    ]),
  ) + `${plural(chosen.length, "group")} at ${bitsPerWeight.toFixed(3)} bits per weight; ` +
    `losses add up to ${loss.toPrecision(3)} (${LOSSES[by]})\n`;
}

/** `self_attn.q_proj, self_attn.k_proj` without what is told twice: `self_attn.q_proj, k_proj`. */
function shortOf(kind: string): string {
  const names = kind.split(", ");
  const dot = names[0]!.lastIndexOf(".") + 1;
  const stem = names[0]!.slice(0, dot);
  return names.map((name, i) => i > 0 && name.startsWith(stem) ? name.slice(dot) : name).join(", ");
}
