// The scale of a group of each row that costs least with codes held, if it costs less than before.
// One workgroup a row.

struct Args {
  G: u32, C: u32, R: u32, K: u32, B: u32,
  first: u32, count: u32, tile: u32, scale_dtype: u32, damp: f32,
}

@group(0) @binding(0) var<storage, read> factor: array<f32>; // f32[G, C]
@group(0) @binding(1) var<storage, read> g: array<f32>; // f32[R, K]
@group(0) @binding(2) var<storage, read> m: array<f32>; // f32[R, K]
@group(0) @binding(3) var<storage, read_write> w: array<f32>; // f32[R, C]
@group(0) @binding(4) var<storage, read_write> e: array<f32>; // f32[R, C]
@group(0) @binding(5) var<storage, read_write> scale: array<f32>; // f32[R, B]
@group(0) @binding(6) var<storage, read_write> loss: array<f32>; // f32[R]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = flat_group(group, groups);
  if r >= args.R { return; }
  var slope = 0.0;
  var curvature = 0.0;
  for (var i = lane; i < args.count; i += LANES) {
    let at = r * args.C + args.first + i;
    let size = w[at];
    slope += size * (g[r * args.K + i] + args.damp * e[at]);
    curvature += size * (m[r * args.K + i] + args.damp * size);
  }
  slope = sum_lanes(slope, lane);
  curvature = sum_lanes(curvature, lane);
  let place = r * args.B + args.tile;
  let before = scale[place];
  // A row of zeros has no curvature: its quotient is not finite, and its scale stays.
  let wanted = before - before * (slope / curvature);
  let after = stored_scale(wanted, args.scale_dtype);
  let part = (after - before) / before;
  let change = part * (slope + part * curvature * 0.5);
  let usable = curvature > 0.0 && is_finite(bitcast<u32>(after)) &&
    (after > 0.0) == (before > 0.0) &&
    abs(after) >= smallest_scale(args.scale_dtype);
  storageBarrier(); // every lane has read the scale
  workgroupBarrier();
  if !(usable && change < 0.0) { return; }
  for (var i = lane; i < args.count; i += LANES) {
    let at = r * args.C + args.first + i;
    let by = factor[r / (args.R / args.G) * args.C + args.first + i];
    let value = round(w[at] * by / before) * after / by;
    e[at] += value - w[at];
    w[at] = value;
  }
  if lane == 0u {
    scale[place] = after;
    loss[r] += change;
  }
}
