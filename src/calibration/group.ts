/**
 * Weights that read one input and are rounded alike: they share statistics, factors and the scale
 * of the input.
 */
import type { Scope } from "../backend.ts";
import { CheckpointError, quote } from "../errors.ts";
import type { Rounder, RoundingRequest } from "../method.ts";
import type { Chain } from "../methods/mod.ts";
import type { Observer, Statistics } from "../observer.ts";
import { inputObserver, observersOf } from "../plan/needs.ts";
import type { QuantizeTask } from "../plan/tasks.ts";
import type { Reporter } from "../report.ts";
import type { Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";

/** See the head of this file. */
export class Group {
  readonly tasks: readonly QuantizeTask[];
  readonly scheme: Scheme;
  readonly chain: Chain;
  readonly options: RoundingRequest["options"];
  readonly #report: Reporter;

  private constructor(tasks: readonly QuantizeTask[], report: Reporter) {
    const [{ scheme, chain, rule: { options } }] = tasks as [QuantizeTask];
    this.tasks = tasks;
    this.scheme = scheme;
    this.chain = chain;
    this.options = options;
    this.#report = report;
  }

  /** Tasks of one stage, those together that are rounded alike. */
  static of(tasks: readonly QuantizeTask[], report: Reporter): Group[] {
    const alike = Map.groupBy(
      tasks,
      ({ scheme, chain, rule }) => JSON.stringify([scheme, chain.name, rule.options]),
    );
    return [...alike.values()].map((members) => new Group(members, report));
  }

  /** What must be seen of the input before scales are moved. */
  get observers(): readonly Observer[] {
    return observersOf(this.tasks[0]!);
  }

  /** What must be seen of it after that; undefined where nothing must. */
  get inputObserver(): Observer | undefined {
    return inputObserver(this.scheme, this.options);
  }

  /**
   * The fixed scale of the input; undefined where there is none.
   *
   * @throws {CheckpointError} the input is not finite.
   */
  inputScale(inputs: Statistics): number | undefined {
    if (!this.inputObserver) return undefined;
    const found = schemeKind(this.scheme).inputScale!.find(this.scheme, inputs, this.options);
    if (Number.isFinite(found)) return found;
    const { name } = this.tasks[0]!;
    throw new CheckpointError(
      `Cannot fix a scale for the input of ${
        quote(name)
      }: on the calibration text it holds NaN or infinity.`,
      { tensor: name },
    );
  }

  /** Open the rounding of these weights. */
  open(
    { scope, statistics, signal }: {
      readonly scope: Scope;
      readonly statistics: Statistics;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Rounder> | Rounder {
    return this.chain.rounding.open({
      names: this.tasks.map(({ name }) => name),
      scheme: this.scheme,
      options: this.options,
      statistics,
      scope,
      report: this.#report,
      signal,
    });
  }
}
