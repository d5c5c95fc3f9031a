// z[t, column + r] = y[t, r] * a[t] * b[r] / 127². One invocation an element of y.

struct Args { T: u32, R: u32, Y: u32, column: u32 }

@group(0) @binding(0) var<storage, read> y: array<i32>; // i32[T, R]
@group(0) @binding(1) var<storage, read> a: array<f32>; // f32[T]
@group(0) @binding(2) var<storage, read> b: array<f32>; // f32[R]
@group(0) @binding(3) var<storage, read_write> z: array<f32>; // f32[T, Y]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.T * args.R { return; }
  let t = i / args.R;
  let r = i % args.R;
  z[t * args.Y + args.column + r] = f32(y[i]) * (a[t] * b[r] / 16129.0);
}
