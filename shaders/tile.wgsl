// A tile of the weights w[R, C] that share a scale, and the weights in it (src/ops/grid.ts). To be
// put before a shader that has w, w_dtype and args.

struct Tile { row: u32, column: u32, width: u32, count: u32 }

fn tile_at(tile: u32) -> Tile {
  let row = tile / args.B * args.tile_rows;
  let column = tile % args.B * args.tile_columns;
  let width = min(args.tile_columns, args.C - column);
  return Tile(row, column, width, min(args.tile_rows, args.R - row) * width);
}

fn weight_bits(tile: Tile, e: u32) -> u32 {
  let i = (tile.row + e / tile.width) * args.C + tile.column + e % tile.width;
  return decode_bits(w[word_of(i, w_dtype)], i, w_dtype);
}

// The largest value of the lanes of a workgroup, for branches that all of them take.
fn uniform_max(value: f32, lane: u32) -> f32 {
  _ = max_lanes(value, lane);
  return workgroupUniformLoad(&lane_values[0]);
}

// The range of a tile: low, high, and 1 where some of it is not finite. Every lane must call it.
fn range_of(tile: Tile, lane: u32) -> vec3<f32> {
  var low = LARGEST;
  var high = -LARGEST;
  var broken = 0.0;
  for (var e = lane; e < tile.count; e += LANES) {
    let bits = weight_bits(tile, e);
    if !is_finite(bits) { broken = 1.0; continue; }
    low = min(low, bitcast<f32>(bits));
    high = max(high, bitcast<f32>(bits));
  }
  return vec3(-uniform_max(-low, lane), uniform_max(high, lane), uniform_max(broken, lane));
}
