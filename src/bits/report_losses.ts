/**
 * Sensitivities from what an earlier run has measured: GPTQ's loss of each weight, in its
 * report.json, which falls to about a quarter with every bit. Free, and blind to how much the
 * model's output depends on a layer.
 */
import { RequestError } from "../errors.ts";
import { isObject, parseObject } from "../json.ts";
import type { RecordedWindows } from "../report/record.ts";
import { matrixShape } from "../tensor.ts";
import { type Group, KEPT, nominalBits } from "./groups.ts";

/**
 * The losses of groups by their options, in order but for what stays as it is: the sum of their
 * weights' losses, each times 4^(bits − bits') for options of bits' bits.
 *
 * @throws {RequestError} the file is no report, of another model, or has no loss of a weight.
 */
export function lossesFromReport(
  groups: readonly Group[],
  text: string,
  file: string,
): { readonly losses: readonly (readonly number[])[]; readonly text: RecordedWindows | null } {
  const refuse = (what: string): never => {
    throw new RequestError(`Cannot take losses from ${file}: ${what}.`);
  };
  const root = parseObject(text) ?? refuse("it holds no JSON object");
  const { weights, calibration } = root;
  if (!Array.isArray(weights)) return refuse("it is no report.json of a run (`report`)");
  const found = new Map(weights.filter(isObject).map((one) => [one.name, one]));
  const losses = groups.map(({ options }) =>
    options.filter(({ name }) => name !== KEPT).map(({ tasks }) =>
      tasks.reduce((all, { name, scheme, weight }) => {
        const one = found.get(name) ?? refuse(`it has no weight "${name}"; it is of another model`);
        const [rows, columns] = matrixShape(weight.shape);
        if (one.rows !== rows || one.columns !== columns) {
          refuse(`its "${name}" is ${one.rows} × ${one.columns}, the model's ${rows} × ${columns}`);
        }
        const { loss, bits } = one;
        if (typeof loss !== "number" || typeof bits !== "number" || !(loss >= 0)) {
          return refuse(`it has no loss of "${name}", which GPTQ alone measures (method gptq)`);
        }
        return all + loss * 4 ** (bits - nominalBits(scheme));
      }, 0)
    )
  );
  return { losses, text: isObject(calibration) ? calibration as unknown as RecordedWindows : null };
}
