/** Parts of tensors: copied as whole words on a device, and here the part itself out of them. */
import type { Backend, Tensor } from "../backend.ts";
import { bytesFrom, f32ToE4m3 } from "../number.ts";
import { defineOp, type DeviceDType, type Op, spread } from "../op.ts";
import type { Range } from "../sampling.ts";
import { BITS, elementCount, type Shape } from "../tensor.ts";

/** A rectangle of a tensor. */
export interface Cut {
  readonly dtype: DeviceDType;
  /** Of the tensor, and of the part; the part's first element. */
  readonly whole: Shape;
  readonly shape: Shape;
  readonly from: readonly number[];
  /** Words that are copied: `words / width` runs of `width` of them, `stride` apart. */
  readonly words: number;
  readonly first: number;
  readonly width: number;
  readonly stride: number;
  /** Where the part's rows begin in the copy, how far apart they are, and their bytes. */
  readonly lead: number;
  readonly pitch: number;
  readonly rowBytes: number;
}

/** What to copy for the part of a tensor that is in a range of each dim; it has one or two. */
export function cutOf(dtype: DeviceDType, whole: Shape, ranges: readonly Range[]): Cut {
  const size = BITS[dtype] / 8;
  const [[top, bottom], [left, right]] = ranges.length === 1
    ? [[0, 1] as const, ranges[0]!]
    : [ranges[0]!, ranges[1]!];
  const columns = whole.at(-1)!;
  const rows = bottom - top;
  const pitch = columns * size;
  const rowBytes = (right - left) * size;
  const given = {
    dtype,
    whole,
    shape: ranges.map(([from, to]) => to - from),
    from: ranges.map(([from]) => from),
    rowBytes,
  };
  if (rowBytes < pitch && pitch % 4 === 0) {
    const begin = Math.floor(left * size / 4);
    const width = Math.ceil(right * size / 4) - begin;
    const stride = pitch / 4;
    return {
      ...given,
      words: rows * width,
      first: top * stride + begin,
      width,
      stride,
      lead: left * size - begin * 4,
      pitch: width * 4,
    };
  }
  // All from the first byte to the last.
  const begin = top * pitch + left * size;
  const first = Math.floor(begin / 4);
  const words = Math.ceil(((bottom - 1) * pitch + right * size) / 4) - first;
  return { ...given, words, first, width: words, stride: words, lead: begin - first * 4, pitch };
}

/** The part's own bytes, from those of the copy. */
export function partOf(cut: Cut, copy: Uint8Array): Uint8Array<ArrayBuffer> {
  const { shape, lead, pitch, rowBytes } = cut;
  const rows = elementCount(shape) / shape.at(-1)!;
  const part = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++) {
    const begin = lead + row * pitch;
    part.set(copy.subarray(begin, begin + rowBytes), row * rowBytes);
  }
  return part;
}

/** Where an element of a part is in the tensor, as in `3, 17`. */
export function placeOf({ shape, from }: Cut, index: number): string {
  const columns = shape.at(-1)!;
  const at = shape.length === 1 ? [index] : [Math.floor(index / columns), index % columns];
  return at.map((place, i) => place + from[i]!).join(", ");
}

/** Words of a tensor of any dtype: runs of `width` of them, `stride` apart. */
const COPY_WORDS = defineOp(
  {
    name: "copy_words",
    inputs: { source: "f32|bf16|f16|f8_e4m3|i8|u8|i32|u32[N]" },
    outputs: { words: "u32[M]" },
    scalars: { first: "u32", width: "u32", stride: "u32" },
    wgsl: `
    override source_dtype: u32 = 0u;
    struct Args { N: u32, M: u32, first: u32, width: u32, stride: u32 }
    @group(0) @binding(0) var<storage, read> source: array<u32>;
    @group(0) @binding(1) var<storage, read_write> words: array<u32>;
    @group(1) @binding(0) var<uniform> args: Args;
    @compute @workgroup_size(LANES) fn main(
      @builtin(workgroup_id) group: vec3<u32>,
      @builtin(num_workgroups) groups: vec3<u32>,
      @builtin(local_invocation_index) lane: u32,
    ) {
      let i = flat_group(group, groups) * LANES + lane;
      if i >= args.M { return; }
      words[i] = source[args.first + i / args.width * args.stride + i % args.width];
    }`,
    workgroups: ({ M = 0 }) => spread(M),
    work: ({ M = 0 }) => M,
    reference(
      { source, words },
      { M = 0 },
      { first = 0, width = 1, stride = 0 },
      { source: dtype },
    ) {
      const bytes = dtype === "bf16" || dtype === "f16"
        ? bytesFrom(dtype, source as Float32Array)
        : dtype === "f8_e4m3"
        ? Uint8Array.from(source!, f32ToE4m3)
        : new Uint8Array(source!.buffer);
      const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
      padded.set(bytes);
      const all = new Uint32Array(padded.buffer);
      for (let i = 0; i < M; i++) {
        words![i] = all[first + Math.floor(i / width) * stride + i % width]!;
      }
    },
  } satisfies Op,
);

/** Queue a copy of a part of a tensor; whoever called must dispose of it. */
export function copyOf(
  backend: Backend,
  { tensor, cut }: { readonly tensor: Tensor; readonly cut: Cut },
): Tensor {
  const words = backend.alloc("u32", [cut.words]);
  const { first, width, stride } = cut;
  backend.run(COPY_WORDS, { source: tensor, words }, { first, width, stride });
  return words;
}
