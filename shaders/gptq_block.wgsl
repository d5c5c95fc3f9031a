// A block of GPTQ's columns: each takes the nearest value of its grid, and its error is taken off
// those after it. One invocation a row.

struct Args {
  P: u32, C: u32, A: u32, B: u32, G: u32, R: u32,
  first: u32, count: u32, panel: u32, tile_rows: u32, tile_columns: u32, kind: u32, bits: u32,
    grid: u32,
}

@group(0) @binding(0) var<storage, read> v: array<f32>; // f32[P, C]
@group(0) @binding(1) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(2) var<storage, read> zero: array<u32>; // i8[A, B]
@group(0) @binding(3) var<storage, read> order: array<u32>; // u32[C]
@group(0) @binding(4) var<storage, read> factor: array<f32>; // f32[G, C]
@group(0) @binding(5) var<storage, read_write> w: array<f32>; // f32[R, C]
@group(0) @binding(6) var<storage, read_write> e: array<f32>; // f32[R, C]
@group(0) @binding(7) var<storage, read_write> loss: array<f32>; // f32[R]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = flat_group(group, groups) * LANES + lane;
  if r >= args.R { return; }
  var errors: array<f32, 64>;
  let tiles = r / args.tile_rows * args.B;
  let factors = r / (args.R / args.G) * args.C;
  var sum = 0.0;
  for (var i = 0u; i < args.count; i++) {
    let column = args.first + i;
    let row = (column - args.panel) * args.C;
    var weight = w[r * args.C + column];
    for (var k = 0u; k < i; k++) { weight -= errors[k] * v[row + args.first + k]; }
    let tile = tiles + order[column] / args.tile_columns;
    let offset = f32(i8_of(zero[tile / 4u], tile));
    let by = factor[factors + order[column]];
    let value = nearest(weight * by, scale[tile], offset, args.kind, args.bits, args.grid) / by;
    let error = (weight - value) / v[row + column];
    errors[i] = error;
    w[r * args.C + column] = value;
    e[r * args.C + column] = error;
    sum += error * error * 0.5;
  }
  loss[r] += sum;
}
