/** Bytes of the golden files, which hold them as hexadecimal text. */

/** The bytes of hexadecimal text. */
export function bytesOf(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.fromHex(hex);
}

/** The little-endian f32 values of hexadecimal text. */
export function floatsOf(hex: string): Float32Array<ArrayBuffer> {
  return new Float32Array(bytesOf(hex).buffer);
}
