// y[t, r] += b[r]. One invocation an element of y.

override b_dtype: u32;

struct Args { R: u32, T: u32 }

@group(0) @binding(0) var<storage, read> b: array<u32>; // f32|bf16|f16[R]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // f32[T, R]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.T * args.R { return; }
  let r = i % args.R;
  y[i] += decode(b[word_of(r, b_dtype)], r, b_dtype);
}
