// Counts of values by sign, exponent and 9 bits of the mantissa, from 2^-64 to 2^64. One invocation
// an element.

struct Args { N: u32, K: u32 }

const SIGN_BINS: u32 = 65536u;

@group(0) @binding(0) var<storage, read> x: array<u32>; // f32[N], as bits
// U32[K], K = 2·SIGN_BINS.
@group(0) @binding(1) var<storage, read_write> counts: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let bits = x[i];
  let place = clamp(i32((bits & 0x7fffffffu) >> 14u) - 63 * 512, 0, i32(SIGN_BINS) - 1);
  atomicAdd(&counts[u32(place) + (bits >> 31u) * SIGN_BINS], 1u);
}
