/** What `quantize` and `plan` do about bounds: the search for a recipe, and the words for it. */
import type { Backend } from "../../backend.ts";
import { UnsupportedError } from "../../errors.ts";
import type { TokenScores } from "../../evaluator.ts";
import type { Guarantee } from "../../guarantee.ts";
import { requestOf } from "../../plan/planned.ts";
import type { Recipe } from "../../recipe.ts";
import type { Reporter } from "../../report.ts";
import {
  boundsSentence,
  certificateOf,
  CONFIDENCE,
  confidenceSentence,
  limitSentence,
  steers,
  type WindowScores,
  windowScores,
} from "../../report/certificate.ts";
import { type Certificate, recordedWindows } from "../../report/record.ts";
import { type PreparedWindows, windowsOf } from "../../windows.ts";
import { count } from "../text.ts";
import {
  type askedBits,
  type BitsWork,
  bitsWork,
  type Choosing,
  settleBits,
  settled,
  type SettledBits,
} from "./bits.ts";
import { type AskedBounds, methodsToTry } from "./bounds.ts";
import { openViews } from "./messages.ts";
import { inputsOf, planFor, readTexts, type Texts } from "./walks.ts";

/** All that a search needs, checked. */
export interface Searching extends BitsWork {
  readonly asked: AskedBounds;
  readonly methods: readonly string[];
  /** The evaluation has all windows that were drawn. */
  readonly texts: Required<Texts>;
  /** Of these, those that judge. */
  readonly judging: PreparedWindows;
}

/**
 * Read the texts, and what layers lose.
 *
 * @throws {RequestError} the text to measure on cannot judge.
 */
export async function prepareSearch(
  base: Recipe,
  asked: AskedBounds,
  choosing: Choosing & { readonly told?: Reporter },
): Promise<Searching> {
  const { checkWindows } = await import("../../guarantee.ts");
  const { parsed, source, host, told = choosing.report } = choosing;
  const reading = {
    source,
    recipes: [{ name: "", recipe: base }],
    host,
    report: told,
    sensed: true,
    searched: true,
  };
  const texts = await readTexts(parsed, reading) as Required<Texts>;
  checkWindows(texts.evaluation, [texts.calibration]);
  const work = await bitsWork(base, choosing);
  if (work.sensed) checkWindows(texts.evaluation, [work.sensed]);
  const judging = await windowsOf(texts.evaluation, (window) => !steers(window));
  return { ...work, asked, methods: methodsToTry(asked, base), texts, judging };
}

/** What will be done, in lines. */
export function searchLines({ asked, methods, texts, judging }: Searching): string[] {
  const { bounds, maxTries } = asked;
  const steering = texts.evaluation.windows.length - judging.windows.length;
  const text = recordedWindows(requestOf(judging), judging);
  return [
    `searching for the fewest bytes with ${boundsSentence(bounds)}`,
    `at most ${maxTries} tries (${
      methods.join(", ")
    }), each a whole quantization that is measured ` +
    "and not kept; the best is then made",
    `${count(steering)} windows steer, ${count(judging.windows.length)} judge: ` +
    confidenceSentence({ confidence: CONFIDENCE, tries: maxTries, text }),
  ];
}

/** The recipe that will be tried first, as `plan` shows it. */
export async function planSearch(searching: Searching, choosing: Choosing): Promise<SettledBits> {
  const { firstTry } = await import("../../guarantee.ts");
  const { work, sensitivities, asked: { bounds }, methods } = searching;
  const { recipe, table } = await settled(
    firstTry(work, { sensitivities, bounds, methods }),
    sensitivities,
    choosing,
  );
  const lines = [...searchLines(searching), "what follows is the first try"];
  return { recipe, table: `${lines.join("\n")}\n\n${table}` };
}

/** A recipe that was found, and what it is to be measured by. */
export interface Found extends SettledBits {
  readonly texts: Texts;
  certify(tokens: TokenScores): Certificate;
}

/**
 * Search; nothing is written but the recipe, if that is asked for.
 *
 * @throws what the library throws.
 */
async function search(
  searching: Searching,
  choosing: Choosing & { readonly backend: Backend },
): Promise<Found> {
  const { guarantee } = await import("../../guarantee.ts");
  const { work, sensitivities, asked: { bounds, maxTries }, methods, texts, judging } = searching;
  const report = warningOnce(choosing.report);
  const found: Guarantee = await guarantee(work, {
    sensitivities,
    bounds,
    methods,
    maxTries,
    measure: (recipe) => measure(recipe, texts, { ...choosing, report }),
    report,
  });
  const { parsed, host } = choosing;
  return {
    ...await settled(found.best.chosen, sensitivities, { parsed, host }),
    texts: { ...texts, evaluation: judging },
    certify: (tokens) =>
      certificateOf(tokens, {
        bounds,
        tries: maxTries,
        text: recordedWindows(requestOf(judging), judging),
        steering_windows: texts.evaluation.windows.length - judging.windows.length,
      }),
  };
}

/** Quantize by a recipe, keep nothing of it but what was measured, and tell that. */
async function measure(
  recipe: Recipe,
  texts: Required<Texts>,
  { parsed, source, backend, host, report, kept }: Choosing & { readonly backend: Backend },
): Promise<WindowScores> {
  const [{ run }, { openNowhere }, { ingredientsOf, keyOf }] = await Promise.all([
    import("../../run.ts"),
    import("../../sinks/nowhere.ts"),
    import("../../run/key.ts"),
  ]);
  const planned = await planFor(recipe, source, { parsed, device: backend, texts, host });
  await using stack = new AsyncDisposableStack();
  const inputs = await inputsOf(texts, { plans: [planned], host, stack });
  const make = async () => {
    await using sink = openNowhere();
    const { signal } = host;
    const { tokens } = await run(planned, { source, backend, sink, report, signal, ...inputs });
    return windowScores(tokens!);
  };
  if (!kept) return await make();
  return await kept.tried(
    await keyOf(await ingredientsOf(planned, { source, backend, ...inputs })),
    make,
  );
}

/** What all tries warn of is told once. */
function warningOnce(report: Reporter): Reporter {
  const told = new Set<string>();
  return (event) => {
    if (event.type === "warning") {
      if (told.has(event.message)) return;
      told.add(event.message);
    }
    report(event);
  };
}

/** @throws {UnsupportedError} the bounds are not kept; the sentence has what comes nearest. */
export function refuseUnkept(
  { holds, limits, tries, ...how }: Certificate,
  bitsPerWeight: number,
): void {
  if (holds) return;
  const found = limits.map(limitSentence).join("; ");
  throw new UnsupportedError(
    `Cannot keep the bound: of at most ${tries} tries the best, at ${
      bitsPerWeight.toFixed(3)
    } bits ` +
      `per weight, has ${found} (${confidenceSentence({ tries, ...how })}). ` +
      "Give a larger bound, `options` of more bits, or more windows.",
    { what: "bounds", reason: found },
  );
}

/**
 * The recipe with bits chosen, as far as they are to be, or found by a search; the progress of that
 * is shown apart from that of the run, then the table.
 *
 * @param options.report Hears what is to be told of the texts, as the run's.
 */
export async function chooseRecipe(
  base: Recipe,
  bits: ReturnType<typeof askedBits>,
  { parsed, source, backend, host, kept, report: told }:
    & Pick<Choosing, "parsed" | "source" | "host" | "kept" | "report">
    & { readonly backend: Backend },
): Promise<{ readonly recipe: Recipe } & Partial<Found>> {
  if (!bits) return { recipe: base };
  using views = openViews(parsed, host);
  const open = () => Promise.resolve(backend);
  const { report } = views;
  const choosing = { parsed, source, device: backend, backend, open, host, kept, report };
  const tell = (text: string) => parsed.get("quiet") || host.err.write(text);
  let made: SettledBits & Partial<Found>;
  if ("within" in bits) {
    const searching = await prepareSearch(base, bits.within, { ...choosing, told });
    for (const line of searchLines(searching)) tell(`sluice: ${line}\n`);
    made = await search(searching, choosing);
  } else made = await settleBits(base, bits, choosing);
  views[Symbol.dispose]();
  tell(made.table);
  return made;
}
