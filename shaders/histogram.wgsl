// Counts of K equal bins between low and high; what lies outside counts in the first or last, NaN
// nowhere. One invocation an element.

override x_dtype: u32;

struct Args { N: u32, K: u32, low: f32, high: f32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // f32|bf16|f16[N]
@group(0) @binding(1) var<storage, read_write> counts: array<atomic<u32>>; // u32[K]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let bits = decode_bits(x[word_of(i, x_dtype)], i, x_dtype);
  if is_nan(bits) { return; }
  let place = quotient(bitcast<f32>(bits) - args.low, args.high - args.low) * f32(args.K);
  atomicAdd(&counts[u32(clamp(floor(place), 0.0, f32(args.K) - 1.0))], 1u);
}
