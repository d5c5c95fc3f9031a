// Where in the cells of their codes weights lie, in units of their scale. One invocation an
// element.

struct Args {
  R: u32, C: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>; // f32[R, C]
@group(0) @binding(1) var<storage, read> codes: array<u32>; // i8[R, C]
@group(0) @binding(2) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(3) var<storage, read> zero: array<u32>; // i8[A, B]
@group(0) @binding(4) var<storage, read_write> u: array<f32>; // f32[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.R * args.C { return; }
  let tile = i / args.C / args.tile_rows * args.B + i % args.C / args.tile_columns;
  let code = i8_of(codes[i / 4u], i);
  let level = f32(code - i8_of(zero[tile / 4u], tile));
  let rest = quotient(w[i], scale[tile]) - level;
  let end = select(lowest_code(args.bits, args.grid), highest_code(args.bits), rest > 0.0);
  let within = max(0.0, min(abs(rest), 0.98 - abs(rest)));
  u[i] = level + sign(rest) * select(within, min(abs(rest), 0.5), f32(code) == end);
}
