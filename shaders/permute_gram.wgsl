// Rows of a symmetric matrix in another order, damped, with zeros below the diagonal. One
// workgroup a row.

struct Args { P: u32, C: u32, Q: u32, from_: u32, to: u32, damp: f32 }

@group(0) @binding(0) var<storage, read> h: array<f32>; // f32[P, C]
@group(0) @binding(1) var<storage, read> order: array<u32>; // u32[C]
@group(0) @binding(2) var<storage, read_write> m: array<f32>; // f32[Q, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups);
  if i >= args.Q { return; }
  let row = order[args.to + i];
  if row < args.from_ || row >= args.from_ + args.P { return; }
  for (var j = lane; j < args.C; j += LANES) {
    let value = h[(row - args.from_) * args.C + order[j]];
    let damped = select(value, value + args.damp, j == args.to + i);
    m[i * args.C + j] = select(damped, 0.0, j < args.to + i);
  }
}
