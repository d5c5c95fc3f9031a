// y[t, column + r] += the part of x · wᵀ that lies in the listed columns, w in float. One
// invocation an element.

struct Args { T: u32, C: u32, D: u32, R: u32, Y: u32, column: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> columns: array<u32>; // u32[D]: a count, then indices
@group(0) @binding(2) var<storage, read> w: array<u32>; // i8[R, C]
@group(0) @binding(3) var<storage, read> absmax: array<f32>; // f32[R]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // f32[T, Y]
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
  var sum = 0.0;
  for (var k = 1u; k <= columns[0]; k++) {
    let e = r * args.C + columns[k];
    sum += x[t * args.C + columns[k]] * f32(i8_of(w[e / 4u], e));
  }
  y[t * args.Y + args.column + r] += sum * absmax[r] / 127.0;
}
