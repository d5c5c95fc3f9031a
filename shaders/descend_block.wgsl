// Coordinate descent on a block of columns: each takes the value of its grid that lowers the loss
// most. One invocation a row.

struct Args {
  P: u32, C: u32, G: u32, R: u32, K: u32, A: u32, B: u32,
  first: u32, count: u32, panel: u32, tile_rows: u32, tile_columns: u32, kind: u32, bits: u32,
    grid: u32, damp: f32,
}

@group(0) @binding(0) var<storage, read> h: array<f32>; // f32[P, C]
@group(0) @binding(1) var<storage, read> factor: array<f32>; // f32[G, C]
@group(0) @binding(2) var<storage, read> g: array<f32>; // f32[R, K]
@group(0) @binding(3) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(4) var<storage, read> zero: array<u32>; // i8[A, B]
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
  var shifts: array<f32, 64>;
  let tiles = r / args.tile_rows * args.B;
  let factors = r / (args.R / args.G) * args.C;
  var sum = 0.0;
  for (var i = 0u; i < args.count; i++) {
    let column = args.first + i;
    let row = (column - args.panel) * args.C;
    let at = r * args.C + column;
    let curvature = h[row + column] + args.damp;
    shifts[i] = 0.0;
    if !(curvature > 0.0) { continue; }
    var slope = g[r * args.K + i] + args.damp * e[at];
    for (var k = 0u; k < i; k++) { slope += shifts[k] * h[row + args.first + k]; }
    let before = w[at];
    let tile = tiles + column / args.tile_columns;
    let offset = f32(i8_of(zero[tile / 4u], tile));
    let by = factor[factors + column];
    let wanted = (before - slope / curvature) * by;
    let value = nearest(wanted, scale[tile], offset, args.kind, args.bits, args.grid) / by;
    let shift = value - before;
    let change = shift * (slope + shift * curvature * 0.5);
    if !(change < 0.0) { continue; }
    shifts[i] = shift;
    w[at] = value;
    e[at] += shift;
    sum += change;
  }
  loss[r] += sum;
}
