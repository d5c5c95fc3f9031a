/** The kinds of scheme. To add one: a file here, a row below, a member of the `Scheme` union. */
import type { Scheme, SchemeKind } from "../scheme.ts";
import { cast } from "./cast.ts";
import { codebook } from "./codebook.ts";
import { fp8 } from "./fp8.ts";
import { int } from "./int.ts";
import { learnedCodebook } from "./learned_codebook.ts";
import { llmInt8 } from "./llm_int8.ts";

/** Every kind of scheme. */
export const SCHEME_KINDS: readonly SchemeKind[] = [
  int,
  codebook,
  learnedCodebook,
  fp8,
  llmInt8,
  cast,
];

/** What is known about a scheme's kind. */
export function schemeKind(scheme: Scheme): SchemeKind {
  const found = SCHEME_KINDS.find(({ kinds }) => kinds.includes(scheme.kind));
  if (!found) throw new TypeError(`No file of schemes/ has a scheme of kind "${scheme.kind}"`);
  return found;
}

export { PRESETS, presetScheme } from "./presets.ts";
export type { Preset, PresetOptions } from "./presets.ts";
