/** Hashes of what is at hand, by the runtime. */

/** SHA-256, in hex; of a text that of its UTF-8. */
export async function sha256(
  data: string | Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
): Promise<string> {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** SHA-256, in hex, of the tokens of windows one after the other, 32 bits each. */
export async function hashWindows(windows: readonly Uint32Array<ArrayBuffer>[]): Promise<string> {
  const tokens = new Uint32Array(windows.reduce((count, { length }) => count + length, 0));
  let at = 0;
  for (const window of windows) {
    tokens.set(window, at);
    at += window.length;
  }
  return await sha256(tokens);
}
