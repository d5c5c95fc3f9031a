/**
 * The multiple-choice knapsack: of each item one option is taken, so that the losses add up to the
 * least that a budget of bytes allows. Exact, up to rounding in float64. Pure.
 *
 * A dynamic programme goes over the items, and keeps of all ways to choose for the first of them
 * those that no other beats in bytes and loss (the Pareto frontier). What keeps it small is a lower
 * bound by one multiplier λ: whatever is chosen for the rest, the loss is at least
 *
 *     loss + Σ_rest min(loss + λ·bytes) − λ·(budget − bytes)
 *
 * and a state whose bound is not below the best choice known so far is dropped. λ is the slope of
 * the losses' convex hulls at which the budget is spent, where the bound is highest; the first
 * choice known is what going down these hulls gives, and each state may find a better one.
 */

/** What one item may become. */
export interface Choice {
  /** 0 or more. */
  readonly bytes: number;
  /** 0 or more. */
  readonly loss: number;
}

/** The best choice. */
export interface Solution {
  /** The number of each item's option. */
  readonly chosen: readonly number[];
  readonly bytes: number;
  readonly loss: number;
  /** States of the dynamic programme, in all: what it took. */
  readonly states: number;
}

/** The fewest bytes that items can take. */
export function leastBytes(items: readonly (readonly Choice[])[]): number {
  return items.reduce((all, options) => all + Math.min(...options.map(({ bytes }) => bytes)), 0);
}

/**
 * Choose an option of each item.
 *
 * @returns undefined when the least that the items can take is above the budget.
 * @throws {RangeError} an item has no options, or one with bytes or a loss that it cannot have.
 */
export function solveKnapsack(
  items: readonly (readonly Choice[])[],
  budget: number,
): Solution | undefined {
  for (const options of items) checkOptions(options);
  if (leastBytes(items) > budget) return undefined;
  const { lambda, chosen } = descendHulls(items, budget);
  const start = totalsOf(items, chosen);
  let best = { ...start, chosen: [...chosen] as readonly number[] };

  // What each option is above the least of loss + λ·bytes of its item.
  const costs = items.map((options) => options.map(({ bytes, loss }) => loss + lambda * bytes));
  const least = costs.map((all) => Math.min(...all));
  const usual = costs.map((all, i) => all.indexOf(least[i]!));
  const bound = least.reduce((sum, cost) => sum + cost, 0) - lambda * budget;
  const gap = () => best.loss - bound;
  const kept = items.map((options, i) =>
    options.flatMap((_, o) => costs[i]![o]! - least[i]! < gap() || o === usual[i] ? [o] : [])
  );
  // What has one option left is decided; the others follow, those that may cost the most first.
  const open = [...items.keys()].filter((i) => kept[i]!.length > 1);
  const spread = (i: number) =>
    Math.min(...kept[i]!.filter((o) => o !== usual[i]).map((o) => costs[i]![o]! - least[i]!));
  open.sort((a, b) => spread(b) - spread(a) || a - b);
  const rest = restOf(items, { open, usual });

  let frontier: State[] = [{ ...rest.decided, above: 0, option: 0, before: undefined }];
  let states = 1;
  for (const [step, item] of open.entries()) {
    const next: State[] = [];
    for (const before of frontier) {
      for (const option of kept[item]!) {
        const { bytes, loss } = items[item]![option]!;
        next.push({
          bytes: before.bytes + bytes,
          loss: before.loss + loss,
          above: before.above + costs[item]![option]! - least[item]!,
          option,
          before,
        });
      }
    }
    const after = rest.after[step]!;
    for (const state of next) {
      // The rest as the multiplier likes it, if there is room for it.
      const [bytes, loss] = [state.bytes + after.bytes, state.loss + after.loss];
      if (bytes > budget || loss >= best.loss) continue;
      best = { bytes, loss, chosen: choicesOf(state, { open, step, usual }) };
    }
    frontier = undominated(
      next.filter(({ bytes, above }) => bytes + after.least <= budget && above < gap()),
    );
    states += frontier.length;
  }
  return { ...best, states };
}

/** A way to choose for the items so far. */
interface State {
  readonly bytes: number;
  readonly loss: number;
  /** By how much its lower bound is above that of everything. */
  readonly above: number;
  readonly option: number;
  readonly before: State | undefined;
}

/** Those that no other beats in bytes and loss, in the order of bytes. */
function undominated(states: State[]): State[] {
  states.sort((a, b) => a.bytes - b.bytes || a.loss - b.loss);
  let least = Infinity;
  return states.filter(({ loss }) => {
    if (loss >= least) return false;
    least = loss;
    return true;
  });
}

/** The choice of all items: that of a state, and for the rest what the multiplier likes. */
function choicesOf(
  state: State,
  { open, step, usual }: {
    readonly open: readonly number[];
    readonly step: number;
    readonly usual: readonly number[];
  },
): number[] {
  const chosen = [...usual];
  let at: State = state;
  for (let i = step; i >= 0; i--) {
    chosen[open[i]!] = at.option;
    at = at.before!;
  }
  return chosen;
}

/** What is decided before the first step, and what the items after each step take. */
function restOf(
  items: readonly (readonly Choice[])[],
  { open, usual }: { readonly open: readonly number[]; readonly usual: readonly number[] },
) {
  const isOpen = new Set(open);
  const decided = [...items.keys()].filter((i) => !isOpen.has(i));
  const after = new Array<Choice & { readonly least: number }>(open.length);
  let below = { bytes: 0, loss: 0, least: 0 };
  for (let step = open.length - 1; step >= 0; step--) {
    after[step] = below;
    const item = open[step]!;
    const { bytes, loss } = items[item]![usual[item]!]!;
    below = {
      bytes: below.bytes + bytes,
      loss: below.loss + loss,
      least: below.least + leastBytes([items[item]!]),
    };
  }
  return {
    decided: totalsOf(decided.map((i) => items[i]!), decided.map((i) => usual[i]!)),
    after,
  };
}

function totalsOf(
  items: readonly (readonly Choice[])[],
  chosen: readonly number[],
): { bytes: number; loss: number } {
  let [bytes, loss] = [0, 0];
  for (const [i, options] of items.entries()) {
    bytes += options[chosen[i]!]!.bytes;
    loss += options[chosen[i]!]!.loss;
  }
  return { bytes, loss };
}

/**
 * From the fewest bytes, always the step that saves the most loss per byte, along the lower convex
 * hull of each item. λ is what the first step saves that there is no room for; 0 if there is room
 * for all.
 */
function descendHulls(
  items: readonly (readonly Choice[])[],
  budget: number,
): { readonly lambda: number; readonly chosen: readonly number[] } {
  const hulls = items.map(hullOf);
  const chosen = hulls.map((hull) => hull[0]!);
  let room = budget - totalsOf(items, chosen).bytes;
  const steps = hulls.flatMap((hull, item) =>
    hull.slice(1).map((to, i) => {
      const [a, b] = [items[item]![hull[i]!]!, items[item]![to]!];
      const bytes = b.bytes - a.bytes;
      return { item, from: hull[i]!, to, bytes, slope: (a.loss - b.loss) / bytes };
    })
  ).sort((a, b) => b.slope - a.slope || a.item - b.item);
  let lambda = 0;
  for (const { item, from, to, bytes, slope } of steps) {
    if (bytes > room) lambda = Math.max(lambda, slope);
    // After a step that did not fit, those behind it do not follow from where the item is.
    if (bytes > room || chosen[item] !== from) continue;
    chosen[item] = to;
    room -= bytes;
  }
  return { lambda, chosen };
}

/** The options on the lower convex hull of loss over bytes, from the fewest bytes to the most. */
function hullOf(options: readonly Choice[]): number[] {
  const order = [...options.keys()].sort((a, b) =>
    options[a]!.bytes - options[b]!.bytes || options[a]!.loss - options[b]!.loss
  );
  const hull: number[] = [];
  const slope = (a: number, b: number) =>
    (options[b]!.loss - options[a]!.loss) / (options[b]!.bytes - options[a]!.bytes);
  for (const option of order) {
    const last = hull.at(-1);
    if (last !== undefined && options[option]!.loss >= options[last]!.loss) continue;
    while (
      hull.length > 1 && slope(hull.at(-1)!, option) <= slope(hull.at(-2)!, hull.at(-1)!)
    ) hull.pop();
    hull.push(option);
  }
  return hull;
}

function checkOptions(options: readonly Choice[]): void {
  const wrong = options.find(({ bytes, loss }) =>
    [bytes, loss].some((cost) => !Number.isFinite(cost) || cost < 0)
  );
  if (wrong || options.length === 0) {
    throw new RangeError(
      wrong
        ? `Cannot choose: an option takes ${wrong.bytes} bytes and loses ${wrong.loss}; both must ` +
          "be 0 or more and finite"
        : "Cannot choose: an item has no options",
    );
  }
}
