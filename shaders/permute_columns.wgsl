// Columns of a matrix in another order, each times its factor. One invocation an element.

struct Args { R: u32, C: u32, G: u32 }

@group(0) @binding(0) var<storage, read> w: array<f32>; // f32[R, C]
@group(0) @binding(1) var<storage, read> order: array<u32>; // u32[C]
@group(0) @binding(2) var<storage, read> factor: array<f32>; // f32[G, C]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // f32[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let e = flat_group(group, groups) * LANES + lane;
  if e >= args.R * args.C { return; }
  let column = order[e % args.C];
  let row = e / args.C;
  y[e] = w[row * args.C + column] * factor[row / (args.R / args.G) * args.C + column];
}
