/** Matrices turned, on the host. */

/** The bytes of a matrix [rows, columns] as [columns, rows]. */
export function transpose(
  bytes: Uint8Array<ArrayBuffer>,
  { rows, columns, bits }: {
    readonly rows: number;
    readonly columns: number;
    readonly bits: number;
  },
): Uint8Array<ArrayBuffer> {
  const Words = bits === 8 ? Uint8Array : bits === 16 ? Uint16Array : Uint32Array;
  const { buffer } = bytes.byteOffset === 0 ? bytes : bytes.slice();
  const from = new Words(buffer, 0, rows * columns);
  const to = new Words(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c]!;
  }
  return new Uint8Array(to.buffer);
}
