/**
 * `none`: what is only measured. Codes are packed as the format nearest to the scheme packs them,
 * for the evaluation of the same run to go through, and are not written: there are schemes that no
 * loader runs, as NF4 weights whose input is rounded to fp8, and it is worth knowing what they
 * would bring.
 */
import type { Format } from "../format.ts";
import type { Scheme } from "../scheme.ts";
import { bitsandbytes } from "./bitsandbytes.ts";
import { codebookFormat } from "./codebook.ts";
import { compressedTensors } from "./compressed_tensors.ts";
import { plain } from "./plain.ts";

/** The format that packs the weights of a scheme. */
function packerOf({ kind }: Scheme): Format {
  switch (kind) {
    case "int":
    case "fp8":
      return compressedTensors;
    case "nf4":
    case "fp4":
    case "llm_int8":
      return bitsandbytes;
    case "codebook":
      return codebookFormat;
    case "cast":
      return plain;
  }
}

/** The weights of a scheme alone. */
function withFloatInputs(scheme: Scheme): Scheme {
  if (scheme.kind === "int" || scheme.kind === "fp8") return { ...scheme, activations: "none" };
  if (!("activations" in scheme)) return scheme;
  const { activations: _, ...weights } = scheme;
  return weights;
}

/** See the head of this file. */
export const unstored: Format = {
  name: "none",
  quantMethod: undefined,
  unwritten: true,
  supports(scheme, weight) {
    return packerOf(scheme).supports(withFloatInputs(scheme), weight);
  },
  rowStep: (scheme, weight) => packerOf(scheme).rowStep(scheme, weight),
  layout: (weight, scheme) => packerOf(scheme).layout(weight, scheme),
  packer: (weight, scheme, scope) => packerOf(scheme).packer(weight, scheme, scope),
  section: () => undefined,
  recognize: () => Promise.resolve(undefined),
  unpack: (stored, read, options) => packerOf(stored.scheme).unpack(stored, read, options),
  loaders: () => [{ name: "any", opens: "no", why: "measured only: nothing is stored" }],
};
