// Per chunk of 4096 elements: Σa², Σb², Σab, Σ(a-b)², max |a-b|, max |a|. One workgroup a chunk.

override a_dtype: u32;

struct Args { N: u32, P: u32, S: u32 }

@group(0) @binding(0) var<storage, read> a: array<u32>; // f32|bf16|f16[N]
@group(0) @binding(1) var<storage, read> b: array<f32>; // f32[N]
@group(0) @binding(2) var<storage, read_write> sums: array<f32>; // f32[P, S], S = 6
@group(1) @binding(0) var<uniform> args: Args;

const CHUNK = 4096u;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let p = flat_group(group, groups);
  if p >= args.P { return; }
  var squares = vec4(0.0);
  var most = vec2(0.0);
  for (var i = p * CHUNK + lane; i < min(args.N, (p + 1u) * CHUNK); i += LANES) {
    let first = decode(a[word_of(i, a_dtype)], i, a_dtype);
    let second = b[i];
    let gap = first - second;
    squares += vec4(first * first, second * second, first * second, gap * gap);
    most = max(most, vec2(abs(gap), abs(first)));
  }
  for (var k = 0u; k < 4u; k++) {
    let sum = sum_lanes(squares[k], lane);
    if lane == 0u { sums[p * args.S + k] = sum; }
  }
  for (var k = 0u; k < 2u; k++) {
    let largest = max_lanes(most[k], lane);
    if lane == 0u { sums[p * args.S + 4u + k] = largest; }
  }
}
