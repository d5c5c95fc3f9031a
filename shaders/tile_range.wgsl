// Minimum and maximum of each tile of w; -infinity and infinity when it holds a NaN or an infinity.
// One workgroup a tile, or one lane for tiles of at most 1024 elements (src/ops/tile_range.ts knows
// the same number).

override w_dtype: u32;

struct Args { R: u32, C: u32, A: u32, B: u32, tile_rows: u32, tile_columns: u32 }

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
// F32[A, B], as bits: they may be infinite.
@group(0) @binding(1) var<storage, read_write> low: array<u32>;
@group(0) @binding(2) var<storage, read_write> high: array<u32>; // f32[A, B], as bits
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let shared_tile = min(args.tile_rows, args.R) * min(args.tile_columns, args.C) > 1024u;
  let place = flat_group(group, groups);
  let tile = select(place * LANES + lane, place, shared_tile);
  if tile >= args.A * args.B { return; }
  let row = tile / args.B * args.tile_rows;
  let column = tile % args.B * args.tile_columns;
  let width = min(args.tile_columns, args.C - column);
  let count = min(args.tile_rows, args.R - row) * width;

  var smallest = LARGEST;
  var largest = -LARGEST;
  var broken = 0.0;
  let stride = select(1u, LANES, shared_tile);
  for (var e = select(0u, lane, shared_tile); e < count; e += stride) {
    let i = (row + e / width) * args.C + column + e % width;
    let bits = decode_bits(w[word_of(i, w_dtype)], i, w_dtype);
    if is_finite(bits) {
      smallest = min(smallest, bitcast<f32>(bits));
      largest = max(largest, bitcast<f32>(bits));
    } else {
      broken = 1.0;
    }
  }
  if shared_tile {
    smallest = -max_lanes(-smallest, lane);
    largest = max_lanes(largest, lane);
    broken = max_lanes(broken, lane);
    if lane > 0u { return; }
  }
  low[tile] = select(bitcast<u32>(smallest), INFINITY_BITS | 0x80000000u, broken > 0.0);
  high[tile] = select(bitcast<u32>(largest), INFINITY_BITS, broken > 0.0);
}
