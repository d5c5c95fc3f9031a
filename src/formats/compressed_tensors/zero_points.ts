/**
 * compressed-tensors' zero points: a dense bitstream down each column, LSB first, in I32 words;
 * field = zero + 2^(b−1).
 */

/** Rows that fill whole words: slices of a packed tensor begin at its multiples. */
export function wordStep(bits: number): number {
  let rows = 1;
  while (rows * bits % 32 !== 0) rows *= 2;
  return rows;
}

/** Words that `rows` fields take. */
export function packedRows(rows: number, bits: number): number {
  return Math.ceil(rows * bits / 32);
}

/** `zero` i8[R, G] → u32[ceil(R·b/32), G]. */
export function packZeroPoints(
  zero: Int8Array,
  { columns, bits }: { readonly columns: number; readonly bits: number },
): Uint32Array<ArrayBuffer> {
  const rows = zero.length / columns;
  const words = new Uint32Array(packedRows(rows, bits) * columns);
  const bias = 2 ** (bits - 1);
  for (let row = 0; row < rows; row++) {
    const shift = row * bits % 32;
    const word = Math.floor(row * bits / 32) * columns;
    for (let column = 0; column < columns; column++) {
      const field = zero[row * columns + column]! + bias;
      words[word + column]! |= field << shift;
      if (shift + bits > 32) words[word + columns + column]! |= field >>> (32 - shift);
    }
  }
  return words;
}

/** The inverse of {@linkcode packZeroPoints}: i8[rows, G]. */
export function unpackZeroPoints(
  words: Uint32Array,
  { rows, columns, bits }: {
    readonly rows: number;
    readonly columns: number;
    readonly bits: number;
  },
): Int8Array<ArrayBuffer> {
  const bias = 2 ** (bits - 1);
  const zero = new Int8Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const shift = row * bits % 32;
    const word = Math.floor(row * bits / 32) * columns;
    for (let column = 0; column < columns; column++) {
      let field = words[word + column]! >>> shift;
      if (shift + bits > 32) field |= words[word + columns + column]! << (32 - shift);
      zero[row * columns + column] = (field & (2 ** bits - 1)) - bias;
    }
  }
  return zero;
}
