/**
 * AWQ's words: a nibble for each of eight neighbouring outputs of one input, in the order its
 * kernels take them apart. Sluice packs a row, an output, into words of eight neighbouring inputs
 * (`pack_bits`); between the two, blocks of 8 × 8 nibbles are transposed. W words a row, I = 8·W
 * inputs, O outputs, of which N are at hand.
 */
import { WORD } from "./layout.ts";

/** Which of its eight outputs nibble k of a word holds, lowest nibble first. */
const ORDER: readonly number[] = [0, 2, 4, 6, 1, 3, 5, 7];

/** The least code, which is stored as 0. */
const BIAS = 8;

/** A stored matrix of words [P, O/8], and the first output of those at hand. */
export interface Outputs {
  readonly cells: Uint32Array<ArrayBuffer>;
  /** O/8. */
  readonly width: number;
  readonly from: number;
}

/**
 * Nibble j of word i becomes nibble i of word j, in eight words: halves change places, then bytes,
 * then nibbles.
 */
function transpose(block: Uint32Array): void {
  for (let distance = 4, mask = 0xffff; distance > 0; distance >>= 1) {
    const shift = 4 * distance;
    for (let i = 0; i < WORD; i++) {
      if (i & distance) continue;
      const exchanged = (block[i]! >>> shift ^ block[i + distance]!) & mask;
      block[i]! ^= exchanged << shift;
      block[i + distance]! ^= exchanged;
    }
    mask ^= mask << shift / 2;
  }
}

/** Put `rows` [N, W], words of inputs, among the words of outputs [I, O/8]. */
export function putCodes(
  rows: Uint32Array<ArrayBuffer>,
  { cells, width, from }: Outputs,
): void {
  const words = cells.length / width / WORD;
  const blocks = rows.length / words / WORD;
  const block = new Uint32Array(WORD);
  for (let w = 0; w < words; w++) {
    for (let b = 0; b < blocks; b++) {
      for (let k = 0; k < WORD; k++) block[k] = rows[(WORD * b + ORDER[k]!) * words + w]!;
      transpose(block);
      const at = WORD * w * width + from / WORD + b;
      for (let i = 0; i < WORD; i++) cells[at + i * width] = block[i]!;
    }
  }
}

/** The inverse of {@linkcode putCodes}: fill `rows` [N, W]. */
export function takeCodes(
  rows: Uint32Array<ArrayBuffer>,
  { cells, width, from }: Outputs,
): void {
  const words = cells.length / width / WORD;
  const blocks = rows.length / words / WORD;
  const block = new Uint32Array(WORD);
  for (let w = 0; w < words; w++) {
    for (let b = 0; b < blocks; b++) {
      const at = WORD * w * width + from / WORD + b;
      for (let i = 0; i < WORD; i++) block[i] = cells[at + i * width]!;
      transpose(block);
      for (let k = 0; k < WORD; k++) rows[(WORD * b + ORDER[k]!) * words + w] = block[k]!;
    }
  }
}

/** Put zero points [N, G] among the words of outputs [G, O/8]. */
export function putZeros(zeros: Int8Array, { cells, width, from }: Outputs): void {
  const groups = cells.length / width;
  for (let n = 0; n < zeros.length / groups; n++) {
    const shift = 4 * ORDER.indexOf(n % WORD);
    for (let g = 0; g < groups; g++) {
      const field = zeros[n * groups + g]! + BIAS;
      cells[g * width + Math.floor((from + n) / WORD)]! |= field << shift;
    }
  }
}

/** The inverse of {@linkcode putZeros}: fill `zeros` [N, G]. */
export function takeZeros(zeros: Int8Array, { cells, width, from }: Outputs): void {
  const groups = cells.length / width;
  for (let n = 0; n < zeros.length / groups; n++) {
    const shift = 4 * ORDER.indexOf(n % WORD);
    for (let g = 0; g < groups; g++) {
      const word = cells[g * width + Math.floor((from + n) / WORD)]!;
      zeros[n * groups + g] = (word >>> shift & 15) - BIAS;
    }
  }
}
