// The diagonal of a matrix, or the inverse of its squares, in another order. One invocation an
// element.

struct Args { P: u32, C: u32, first: u32, inverse_square: u32 }

@group(0) @binding(0) var<storage, read> m: array<f32>; // f32[P, C]
@group(0) @binding(1) var<storage, read> order: array<u32>; // u32[C]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.P { return; }
  let value = m[i * args.C + args.first + i];
  y[order[args.first + i]] = select(value, 1.0 / (value * value), args.inverse_square != 0u);
}
