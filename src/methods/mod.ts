/** The methods, and lists of them. To add one: a file here and a row below. */
import { RequestError } from "../errors.ts";
import type { Method, RoundingMethod, SmoothingMethod, TuningMethod } from "../method.ts";
import { awq } from "./awq.ts";
import { gptq } from "./gptq.ts";
import { hqq } from "./hqq.ts";
import { rtn } from "./rtn.ts";
import { smoothquant } from "./smoothquant.ts";
import { tune } from "./tune.ts";

/** Every method. */
export const METHODS: readonly Method[] = [rtn, hqq, gptq, awq, smoothquant, tune];

/**
 * A list of methods that were checked to fit together: smoothing methods, then one that rounds,
 * then perhaps one that tunes.
 */
export interface Chain {
  /** `awq+gptq` */
  readonly name: string;
  readonly smoothing: readonly SmoothingMethod[];
  readonly rounding: RoundingMethod;
  readonly tuning?: TuningMethod;
}

/** The methods of a chain, in the order of their work. */
export function methodsOf({ smoothing, rounding, tuning }: Chain): Method[] {
  return [...smoothing, rounding, ...tuning ? [tuning] : []];
}

/**
 * The methods that a text names, joined by `+`. Where none rounds, weights are rounded to nearest
 * after those that smooth.
 *
 * @throws {RequestError} there is no such method, or the order makes no sense.
 */
export function chainNamed(name: string): Chain {
  const fail = (why: string): never => {
    throw new RequestError(`Cannot use the method "${name}": ${why}.`);
  };
  const methods = name.split("+").map((part) =>
    METHODS.find((method) => method.name === part) ??
      fail(
        `the names are ${
          METHODS.map(({ name }) => name).join(", ")
        }, and lists of them as awq+gptq`,
      )
  );
  const smoothing: SmoothingMethod[] = [];
  let rounding: RoundingMethod | undefined;
  let tuning: TuningMethod | undefined;
  for (const method of methods) {
    if (tuning) fail(`${tuning.name} trains what all others have made, so nothing can follow it`);
    if (method.kind === "tuning") tuning = method;
    else if (rounding) fail(`${rounding.name} chooses codes, so nothing can follow it`);
    else if (method.kind === "rounding") rounding = method;
    else smoothing.push(method);
  }
  if (new Set(methods).size < methods.length) fail("it names a method twice");
  const chain = { smoothing, rounding: rounding ?? rtn, ...(tuning ? { tuning } : {}) };
  return { name: methodsOf({ name, ...chain }).map(({ name }) => name).join("+"), ...chain };
}
