/** The methods. To add one: a file here and a row below. */
import { RequestError } from "../errors.ts";
import type { Method } from "../method.ts";
import { rtn } from "./rtn.ts";

/** Every method, the default first. */
export const METHODS: readonly Method[] = [rtn];

/**
 * The method of this name.
 *
 * @throws {RequestError} there is none.
 */
export function methodNamed(name: string): Method {
  const method = METHODS.find((method) => method.name === name);
  if (!method) {
    throw new RequestError(
      `Cannot use the method "${name}": the names are ${
        METHODS.map(({ name }) => name).join(", ")
      }.`,
    );
  }
  return method;
}
