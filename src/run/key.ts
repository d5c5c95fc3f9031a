/**
 * What a run depends on, as data, and its hash: two runs of one key make the same bytes and the
 * same numbers, so that one can go on where the other was stopped. Of two that are not the same, it
 * can be told in what they differ.
 */
import type { Backend } from "../backend.ts";
import { hashWindows, sha256 } from "../hash.ts";
import { isObject } from "../json.ts";
import type { Plan, WindowsRequest } from "../plan/planned.ts";
import { keepStacks, spilledTokens } from "../plan/stacks.ts";
import { recipeDocument } from "../recipe.ts";
import { isPinned, recordedWindows } from "../report/record.ts";
import type { TextFacts } from "../report.ts";
import { stateWidths } from "../graph/stops.ts";
import { VERSION } from "../version.ts";
import type { SharedOptions } from "./context.ts";

/** What a run depends on: JSON, by what a person would call it. */
export type Ingredients = Readonly<Record<string, unknown>>;

/** What of a run's options its result depends on. */
type Given = Pick<
  SharedOptions,
  "source" | "backend" | "calibration" | "evaluation" | "metrics" | "distributions"
>;

/** What a plan's run depends on. */
export async function ingredientsOf(plan: Plan, given: Given): Promise<Ingredients> {
  const { source, calibration, evaluation, metrics, distributions, backend } = given;
  const { files, sidecars } = plan;
  const heads = files.map(async ({ path, size, head }) => ({
    path,
    size,
    head: await sha256(head),
  }));
  return {
    version: VERSION,
    // Of a folder, `id` hashes config.json and all headers with their files' sizes. Tensors are not
    // hashed: that would read all of a model before the first block is. Whoever changes them
    // changes the time of their file.
    source: {
      id: plan.source.id,
      ...(isPinned(plan.source) ? {} : { changed: source.changed ?? null }),
    },
    recipe: recipeDocument(plan.recipe),
    calibration: plan.calibration && calibration
      ? {
        ...await windowsOf(plan.calibration, calibration),
        // Sums depend on which windows walk together, and what lies on disk is in bf16.
        ...walkOf(plan, { walk: plan.calibration, backend }),
        propagate: plan.propagate,
        tuned: plan.tuned,
      }
      : null,
    evaluation: plan.evaluation && evaluation ? await windowsOf(plan.evaluation, evaluation) : null,
    measured: { metrics: metrics === true, distributions: distributions === true },
    // Sums are rounded by what a device's products are made of; threads share them out alone.
    device: `${plan.device}, ${backend.description.replace(/^\d+ threads? of /, "")}`,
    format: plan.format.name,
    files: await Promise.all(heads),
    sidecars: sidecars.map(({ path, size }) => ({ path, size })),
  };
}

/** The hash of what a run depends on, in hex. */
export async function keyOf(ingredients: Ingredients): Promise<string> {
  return await sha256(JSON.stringify(ingredients));
}

/** What of a run comes of the rest of it, and is told of only where nothing else differs. */
const CONSEQUENCES = ["format", "files", "sidecars"];

/** In what a run differs from an earlier one, in words; nothing where it does not. */
export function changesOf(before: Ingredients, now: Ingredients): string[] {
  const causes = (all: Ingredients) =>
    Object.fromEntries(Object.entries(all).filter(([name]) => !CONSEQUENCES.includes(name)));
  const found = differences(causes(before), causes(now));
  return found.length > 0 ? found : differences(before, now);
}

function differences(before: unknown, now: unknown, place = ""): string[] {
  if (JSON.stringify(before) === JSON.stringify(now)) return [];
  if (isObject(before) && isObject(now) || Array.isArray(before) && Array.isArray(now)) {
    const [one, other] = [before, now] as Readonly<Record<string, unknown>>[];
    return [...new Set([...Object.keys(one!), ...Object.keys(other!)])].flatMap((key) =>
      differences(one![key], other![key], place === "" ? key : `${place}.${key}`)
    );
  }
  const [was, is] = [before, now].map(shown);
  return [
    was === undefined || is === undefined
      ? `${place} is another`
      : `${place} was ${was} and is ${is}`,
  ];
}

/** A value as a person can compare it; undefined where nobody can. */
function shown(value: unknown): string | undefined {
  if (value === undefined || value === null) return "none";
  if (typeof value === "object") return "given";
  const text = JSON.stringify(value);
  return text.length > 120 || /^"[0-9a-f]{64}"$/.test(text) ? undefined : text;
}

async function windowsOf(
  walk: WindowsRequest,
  input: Partial<TextFacts> & { readonly windows: readonly Uint32Array<ArrayBuffer>[] },
): Promise<object> {
  return { ...recordedWindows(walk, input), sha256: await hashWindows(input.windows) };
}

function walkOf(
  { model, ...streams }: Plan,
  { walk, backend }: { readonly walk: WindowsRequest; readonly backend: Backend },
): object {
  const stacking = { model: model!, device: backend };
  const { kept } = stateWidths(model!, streams);
  return {
    stacks: keepStacks(walk, kept, stacking).rows.length,
    tokens_on_disk: spilledTokens(walk, kept, stacking),
  };
}
