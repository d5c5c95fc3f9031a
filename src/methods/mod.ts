/** The methods, and lists of them. To add one: a file here and a row below. */
import { RequestError } from "../errors.ts";
import type { Method, RoundingMethod, SmoothingMethod } from "../method.ts";
import { awq } from "./awq.ts";
import { gptq } from "./gptq.ts";
import { hqq } from "./hqq.ts";
import { rtn } from "./rtn.ts";
import { smoothquant } from "./smoothquant.ts";

/** Every method. */
export const METHODS: readonly Method[] = [rtn, hqq, gptq, awq, smoothquant];

/** A list of methods that were checked to fit together: smoothing methods, then one that rounds. */
export interface Chain {
  /** `awq+gptq` */
  readonly name: string;
  readonly smoothing: readonly SmoothingMethod[];
  readonly rounding: RoundingMethod;
}

/** The methods of a chain, in the order of their work. */
export function methodsOf({ smoothing, rounding }: Chain): Method[] {
  return [...smoothing, rounding];
}

/**
 * The methods that a text names, joined by `+`. Smoothing methods alone are followed by rounding to
 * nearest.
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
  const last = methods.at(-1)!;
  const rounding = last.kind === "rounding" ? last : rtn;
  const before = last.kind === "rounding" ? methods.slice(0, -1) : methods;
  const smoothing = before.flatMap((method) =>
    method.kind === "smoothing"
      ? [method]
      : fail(`${method.name} chooses codes, so nothing can follow it`)
  );
  if (new Set(methods).size < methods.length) fail("it names a method twice");
  return { name: [...smoothing, rounding].map(({ name }) => name).join("+"), smoothing, rounding };
}
