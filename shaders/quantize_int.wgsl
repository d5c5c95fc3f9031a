// Codes of w on the grid of its tile: round(w / scale) + zero, clamped. One invocation a word of
// codes: four elements.

override w_dtype: u32;

struct Args {
  R: u32, C: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(2) var<storage, read> zero: array<u32>; // i8[A, B]
@group(0) @binding(3) var<storage, read_write> codes: array<u32>; // i8[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flat_group(group, groups) * LANES + lane) * 4u;
  let count = args.R * args.C;
  if first >= count { return; }
  let lowest = lowest_code(args.bits, args.grid);
  let highest = highest_code(args.bits);
  var row = first / args.C;
  var column = first % args.C;
  var word = 0u;
  for (var i = first; i < min(first + 4u, count); i++) {
    let tile = row / args.tile_rows * args.B + column / args.tile_columns;
    let value = decode(w[word_of(i, w_dtype)], i, w_dtype);
    let offset = f32(i8_of(zero[tile / 4u], tile));
    let code = clamp(round(quotient(value, scale[tile])) + offset, lowest, highest);
    word |= byte_at(i32(code), i);
    column++;
    if column == args.C { column = 0u; row++; }
  }
  codes[first / 4u] = word;
}
