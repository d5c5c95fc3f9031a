// A tile of the weights w[R, C] that share a scale, and the weights in it (src/ops/grid.ts). To be put before a shader that has w, w_dtype and args.

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
