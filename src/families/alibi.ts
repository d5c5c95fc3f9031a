/**
 * Attention with linear biases (ALiBi, arXiv 2108.12409): the score of a key grows with its
 * position, in each head by a slope of its own.
 */

/**
 * Slopes by head: 2^(−8(h+1)/n) for a power of two n; of other numbers of heads the next lower
 * power's, then every other of the next higher.
 */
export function slopesOf(heads: number): Float32Array<ArrayBuffer> {
  const below = 2 ** Math.floor(Math.log2(heads));
  const base = Math.fround(2 ** -(2 ** -(Math.log2(below) - 3)));
  const between = Math.fround(2 ** -(2 ** -(Math.log2(2 * below) - 3)));
  return Float32Array.from(
    { length: heads },
    (_, head) => head < below ? base ** (head + 1) : between ** (2 * (head - below) + 1),
  );
}
