// A step of latents and scales by the signs of their gradients. One workgroup a tile, which lies
// within a row.

struct Args {
  R: u32, C: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32, scale_dtype: u32,
  rate: f32, scale_rate: f32,
}

@group(0) @binding(0) var<storage, read> g: array<f32>; // f32[R, C]
@group(0) @binding(1) var<storage, read> codes: array<u32>; // i8[R, C]
@group(0) @binding(2) var<storage, read> zero: array<u32>; // i8[A, B]
@group(0) @binding(3) var<storage, read_write> u: array<f32>; // f32[R, C]
@group(0) @binding(4) var<storage, read_write> wide: array<f32>; // f32[A, B]
@group(0) @binding(5) var<storage, read_write> scale: array<f32>; // f32[A, B]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = flat_group(group, groups);
  if tile >= args.A * args.B { return; }
  let offset = f32(i8_of(zero[tile / 4u], tile));
  let lowest = lowest_code(args.bits, args.grid) - offset - 0.5;
  let highest = highest_code(args.bits) - offset + 0.5;
  let before = wide[tile];
  let first = tile % args.B * args.tile_columns;
  let row = tile / args.B * args.C;
  var slope = 0.0;
  for (var c = first + lane; c < min(args.C, first + args.tile_columns); c += LANES) {
    let at = row + c;
    slope += g[at] * (f32(i8_of(codes[at / 4u], at)) - offset);
    u[at] = clamp(u[at] - args.rate * sign(g[at]) * sign(before), lowest, highest);
  }
  slope = sum_lanes(slope, lane);
  if lane != 0u { return; }
  let after = before - before * args.scale_rate * sign(slope) * sign(before);
  let stored = max(abs(stored_scale(after, args.scale_dtype)), smallest_scale(args.scale_dtype));
  wide[tile] = after;
  scale[tile] = select(stored, -stored, after < 0.0);
}
