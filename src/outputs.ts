/**
 * Several outputs of one checkpoint, planned for one run (`runOutputs`): each as if it were alone,
 * with the memory that the others take beside it. What one of them refuses, all refuse.
 */
import { quote, UnsupportedError } from "./errors.ts";
import { type Beside, besideOf } from "./plan/outputs.ts";
import type { Plan, WindowsRequest } from "./plan/planned.ts";
import { needsCalibration, plan } from "./plan.ts";
import type { NamedRecipe } from "./recipe_file.ts";
import type { TensorSource } from "./source.ts";
import { sum } from "./tensor.ts";

/** Hidden states of a text below this are not halved any more, but go to disk. */
const LEAST_STATES = 2 ** 20;

/**
 * Plan several outputs from headers alone. `memory` of each is that of the run while it is at work
 * on it, all that the others hold included; where a budget asks for it, hidden states of all are
 * cut alike. Of `budgets.disk` each has an equal share.
 *
 * @example Two checkpoints of the embedded sample model by one read
 * ```ts
 * import { open, openBackend, openFolderSink, parseOutputs, planOutputs, runOutputs } from "@sluice/sluice";
 *
 * await using source = await open("sample");
 * await using backend = await openBackend("wasm");
 * const outputs = parseOutputs("outputs: [{ scheme: NF4 }, { scheme: W8A8, method: rtn }]", "-")!;
 * const plans = planOutputs(outputs, source, { device: backend });
 * const folder = await Deno.makeTempDir();
 * await using sinks = new AsyncDisposableStack();
 * const made = await Promise.all(outputs.map(async ({ name }, i) => ({
 *   plan: plans[i]!,
 *   sink: sinks.use(await openFolderSink(`${folder}/${name}`)),
 * })));
 * await runOutputs(made, { source, backend });
 * ```
 *
 * @throws {UnsupportedError} an output cannot be made; the sentence says which.
 * @throws {CheckpointError} `config.json` has a value that a model cannot have.
 * @throws {RangeError} no outputs.
 */
export function planOutputs(
  outputs: readonly NamedRecipe[],
  source: TensorSource,
  { budgets = {}, evaluation, calibration, ...options }: Parameters<typeof plan>[2],
): Plan[] {
  const [first, ...others] = outputs;
  if (first && others.length === 0) {
    const walks = {
      ...(evaluation ? { evaluation } : {}),
      ...(calibration ? { calibration } : {}),
    };
    return [plan(first.recipe, source, { ...options, ...walks, budgets })];
  }
  if (!first) throw new RangeError("Cannot plan outputs: there are none");
  const disk = budgets.disk === undefined
    ? {}
    : { disk: Math.floor(budgets.disk / outputs.length) };
  let most = Infinity;
  for (;;) {
    const capped = (walk: WindowsRequest) => ({
      ...walk,
      stateBudget: Math.min(walk.stateBudget, most),
    });
    const around = {
      ...options,
      ...(evaluation ? { evaluation: capped(evaluation) } : {}),
      ...(calibration ? { calibration: capped(calibration) } : {}),
    };
    const alone = planEach(outputs, (recipe) => plan(recipe, source, around));
    const shares = alone.map((one) => besideOf(one, options.device));
    try {
      return planEach(outputs, (recipe, i) => {
        const beside = together(shares.filter((_, other) => other !== i));
        return plan(recipe, source, { ...around, budgets: { ...budgets, ...disk }, beside });
      });
    } catch (error) {
      // Each alone can be made; what they cannot keep together are budgets.
      const held = Math.max(...alone.map(({ memory }) => memory.states));
      if (!(error instanceof UnsupportedError) || held === 0 || most === 0) throw error;
      most = Math.min(most, held) / 2;
      if (most < LEAST_STATES) most = 0;
    }
  }
}

function together(shares: readonly Beside[]): Beside {
  return {
    states: sum(shares, ({ states }) => states),
    onHost: sum(shares, ({ onHost }) => onHost),
  };
}

/**
 * Whether one of some outputs calibrates anything, so that `planOutputs` must be given windows of a
 * text.
 *
 * @throws {UnsupportedError} an output cannot be made; the sentence says which.
 */
export function outputsNeedCalibration(
  outputs: readonly NamedRecipe[],
  source: TensorSource,
): boolean {
  return planEach(outputs, (recipe) => needsCalibration(recipe, source)).includes(true);
}

/** @throws {UnsupportedError} one of several is refused, with its name. */
function planEach<T>(
  outputs: readonly NamedRecipe[],
  make: (recipe: NamedRecipe["recipe"], i: number) => T,
): T[] {
  return outputs.map(({ name, recipe }, i) => {
    try {
      return make(recipe, i);
    } catch (error) {
      if (!(error instanceof UnsupportedError) || outputs.length === 1) throw error;
      const { what, reason, message } = error;
      throw new UnsupportedError(`Cannot make the output ${quote(name)}. ${message}`, {
        what,
        reason,
        cause: error,
      });
    }
  });
}
