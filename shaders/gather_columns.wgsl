// y[t, n] = x[t, columns[n]]. One invocation an element.

struct Args { T: u32, C: u32, N: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> columns: array<u32>; // u32[N]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[T, N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.T * args.N { return; }
  y[i] = x[i / args.N * args.C + columns[i % args.N]];
}
