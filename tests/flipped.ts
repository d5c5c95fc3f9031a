/** A device that computes wrongly: bits of what an op gives are flipped before anybody sees it. */
import type { Backend, Tensor } from "../src/backend.ts";
import { type Op, type Signature, spread } from "../src/op.ts";
import { elementCount } from "../src/tensor.ts";
import { withOwn } from "./run_given.ts";

/** A high bit of each byte of a word: of every float, and of every code. */
const MASK = 0x40404040;

const flipping = (y: Signature): Op => ({
  name: "flip_words",
  inputs: {},
  outputs: { y },
  scalars: { first: "u32", count: "u32" },
  wgsl: `
    override y_dtype: u32 = 0u;
    struct Args { N: u32, first: u32, count: u32 }
    @group(0) @binding(0) var<storage, read_write> y: array<u32>;
    @group(1) @binding(0) var<uniform> args: Args;
    @compute @workgroup_size(LANES) fn main(
      @builtin(workgroup_id) group: vec3<u32>,
      @builtin(num_workgroups) groups: vec3<u32>,
      @builtin(local_invocation_index) lane: u32,
    ) {
      let i = flat_group(group, groups) * LANES + lane;
      if i < args.count { y[args.first + i] ^= ${MASK}u; }
    }`,
  workgroups: (_dims, { count = 0 }) => spread(count),
  reference({ y }, _dims, { first = 0, count = 0 }) {
    const bytes = new Uint8Array(y!.buffer);
    for (let i = 4 * first; i < Math.min(bytes.length, 4 * (first + count)); i++) {
      bytes[i]! ^= MASK & 0xff;
    }
  },
});

/** Of floats, which a definition sees widened, and of what it sees as it is. */
const FLIP_FLOATS = flipping("f32|bf16|f16[N]");
const FLIP_CODES = flipping("f8_e4m3|i8|u8|i32|u32[N]");

/** Flip a bit of each byte of some words of a tensor; all of them unless given. */
export function flip(
  backend: Backend,
  tensor: Tensor,
  { first = 0, count }: { readonly first?: number; readonly count?: number } = {},
): void {
  const op = ["f32", "bf16", "f16"].includes(tensor.dtype) ? FLIP_FLOATS : FLIP_CODES;
  backend.run(op, { y: tensor }, { first, count: count ?? wordsOf(tensor) - first });
}

/** Words of a tensor, the last perhaps in part. */
export function wordsOf({ dtype, shape }: Tensor): number {
  const bytes = { f32: 4, i32: 4, u32: 4, bf16: 2, f16: 2, f8_e4m3: 1, i8: 1, u8: 1 }[dtype];
  return Math.ceil(elementCount(shape) * bytes / 4);
}

/** A device that does something more after each call of an op. */
export function afterEach(
  backend: Backend,
  then: (op: Op, tensors: Readonly<Record<string, Tensor>>) => void,
): Backend {
  return withOwn(backend, {
    run(op, tensors, scalars) {
      backend.run(op, tensors, scalars);
      then(op, tensors);
    },
  });
}
