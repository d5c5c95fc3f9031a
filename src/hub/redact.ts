/**
 * Keeping secrets out of what people read: the one place through which text about requests goes
 * before it is shown or thrown. Pure.
 */

const TOKEN = /\bhf_[A-Za-z0-9_]{3,}/g;
const BEARER = /\b(Bearer|Basic)\s+[^\s"',;]+/gi;
const USER = /(\bhttps?:\/\/)[^\s/@?#"']*@/gi;
const QUERY = /(\bhttps?:\/\/[^\s?#"'<>]*)[?#][^\s"'<>)]*/gi;

/**
 * The text without tokens, credentials and the queries of URLs, which is where signed URLs hold
 * their signature.
 *
 * @param secrets values to remove wherever they stand, such as the token in use
 */
export function redact(text: string, secrets: readonly (string | undefined)[] = []): string {
  let shown = text;
  for (const secret of secrets) if (secret) shown = shown.replaceAll(secret, "***");
  return shown.replace(USER, "$1").replace(QUERY, "$1").replace(BEARER, "$1 ***")
    .replace(TOKEN, "hf_***");
}

/** A URL fit to be shown: no user, no query. */
export function shownUrl(url: URL): string {
  return redact(`${url.origin}${url.pathname}`);
}
