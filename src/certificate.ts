/**
 * Measuring again what a certificate promises: the written checkpoint against its original, on the
 * same windows. Refuses other texts.
 */
import { quote, RequestError } from "./errors.ts";
import { type EvaluateOptions, evaluateTokens } from "./evaluate.ts";
import { limitsOf, steers, windowScores } from "./report/certificate.ts";
import type { Certificate } from "./report/record.ts";
import type { TensorSource } from "./source.ts";
import { type CorpusOptions, type PreparedWindows, prepareWindows, windowsOf } from "./windows.ts";

/**
 * The windows that a certificate is about.
 *
 * @param options.corpus The text, where the certificate's name for it does not find it: of a file
 *   it has the name without the folder.
 * @throws {RequestError} the text at hand has others.
 * @throws what `prepareWindows` throws.
 */
export async function certifiedWindows(
  { text, steering_windows: steering }: Certificate,
  checkpoint: TensorSource,
  options: Omit<CorpusOptions, "seqLen" | "numSamples" | "seed">,
): Promise<PreparedWindows> {
  const corpus = options.corpus ?? text.corpus ?? "sample";
  const drawn = await prepareWindows(checkpoint, {
    ...options,
    corpus,
    seqLen: text.seq_len,
    numSamples: text.windows + steering,
    ...(text.seed === null ? {} : { seed: text.seed }),
  });
  const judging = await windowsOf(drawn, (window) => !steers(window));
  if (judging.sha256 === text.sha256) return judging;
  throw new RequestError(
    `Cannot measure the certificate again on ${quote(corpus)}: it is about other windows, of ` +
      `${quote(text.corpus ?? "a text")} with the SHA-256 ${text.sha256}, and these have ` +
      `${judging.sha256}. Give the text that it was made by (\`corpus\`).`,
  );
}

/**
 * The same bounds, tries and confidence by what is measured now.
 *
 * @param options.evaluation Of {@linkcode certifiedWindows}.
 * @throws what `evaluate` throws.
 */
export async function certifyAgain(
  certificate: Certificate,
  checkpoint: TensorSource,
  options: EvaluateOptions & { readonly reference: TensorSource },
): Promise<Certificate> {
  const tokens = await evaluateTokens(checkpoint, options);
  const bounds = certificate.limits.map(({ quantity, bound }) => [quantity, bound]);
  const limits = limitsOf(windowScores(tokens), Object.fromEntries(bounds), certificate);
  return { ...certificate, limits, holds: limits.every(({ holds }) => holds) };
}
