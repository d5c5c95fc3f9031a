// y = x as f32, exactly. One invocation an element.

override x_dtype: u32;

struct Args { N: u32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // bf16|f16|f8_e4m3[N]
// F32[N], as bits: no compiler may flush them.
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  y[i] = decode_bits(x[word_of(i, x_dtype)], i, x_dtype);
}
