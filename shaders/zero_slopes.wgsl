// Gradients by zero points: sums over the clipped weights of a tile. One workgroup a tile, which
// lies within a row.

struct Args {
  R: u32, C: u32, A: u32, B: u32, bits: u32, grid: u32, tile_rows: u32, tile_columns: u32
}

@group(0) @binding(0) var<storage, read> g: array<f32>; // f32[R, C]
@group(0) @binding(1) var<storage, read> u: array<f32>; // f32[R, C]
@group(0) @binding(2) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(3) var<storage, read> zero: array<u32>; // i8[A, B]
@group(0) @binding(4) var<storage, read_write> slope: array<f32>; // f32[A, B]
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
  let least = lowest_code(args.bits, args.grid) - offset - 0.5;
  let most = highest_code(args.bits) - offset + 0.5;
  let first = tile % args.B * args.tile_columns;
  let row = tile / args.B * args.C;
  var sum = 0.0;
  for (var c = first + lane; c < min(args.C, first + args.tile_columns); c += LANES) {
    let latent = u[row + c];
    if latent <= least || latent >= most { sum += g[row + c]; }
  }
  sum = sum_lanes(sum, lane);
  if lane == 0u { slope[tile] = -scale[tile] * sum; }
}
