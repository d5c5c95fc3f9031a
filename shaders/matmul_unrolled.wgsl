// The tiled product x · wᵀ for operands that are read in vectors of four: a template, which
// src/ops/tiles.ts writes out for tiles of SIDE × SIDE elements. A workgroup has SIDE lanes and
// computes one tile, DEPTH columns of the operands at a time; a lane 8 × SIDE / 8 elements, in
// registers. A GPU is fast where no loop and no wait stands between products, so the depth of a
// tile is written out, and while a tile is multiplied the next one is on its way to registers.
//
// A shader that stands before this file defines
//   fn sizes() -> vec3<u32>                          rows, depth, columns of the product
//   fn wanted(tile: vec2<u32>) -> bool               whether a tile, x across, is to be computed
//   alias X, fn x_fetch(t: u32, c: u32) -> X         rows t … t + 3 of x, columns c … c + 3, as
//                                                    stored; zeros from the last column on
//   fn x_open(block: X) -> mat4x4<f32>               the same as four rows at each column
//   alias W, w_fetch, w_open                         the same of w
//   fn put_four(t: u32, r: u32, values: vec4<f32>)   columns r … r + 3 of row t of the result
// t and r are multiples of 4 in fetches; they may lie outside, where any values will do.

const DEPTH = 16u;
// Tiles below each other that run one after another, and so find what they share in the cache.
const TOGETHER = 512u / SIDE;
// [column][four rows]. Fours of every second group of four columns are stored in another order
// (`swizzle`), so that lanes that store at one time use different banks.
var<workgroup> xs: array<array<vec4<f32>, SIDE / 4u>, DEPTH>;
var<workgroup> ws: array<array<vec4<f32>, SIDE / 4u>, DEPTH>;

fn tile_of(group: vec3<u32>, groups: vec3<u32>) -> vec2<u32> {
  let flat = group.x + group.y * groups.x;
  let first = flat / (TOGETHER * groups.x) * TOGETHER;
  let rows = min(groups.y - first, TOGETHER);
  let rest = flat % (TOGETHER * groups.x);
  return vec2(rest / rows, first + rest % rows);
}

@compute @workgroup_size(SIDE)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let tile = tile_of(group, groups);
  if !wanted(tile) { return; }
  let depth = sizes().y;
  // What this lane loads: four rows of each operand at four columns.
  let four = lane / 4u;
  let column = lane % 4u * 4u;
  let swizzled = four ^ (column / 2u);
  let t = tile.y * SIDE + four * 4u;
  let r = tile.x * SIDE + four * 4u;
  // What it computes: rows from 4 · ty and SIDE / 2 + 4 · ty on, every 32nd four of columns.
  let ty = lane / 8u;
  let tx = lane % 8u;
#repeat i 8
#repeat j FOURS
  var s$i_$j = vec4<f32>();
#end
#end

  var x_next = x_fetch(t, column);
  var w_next = w_fetch(r, column);
  for (var c = 0u; c < depth; c += DEPTH) {
    let x4 = x_open(x_next);
    let w4 = w_open(w_next);
#repeat k 4
    xs[column + $ku][swizzled] = x4[$k];
    ws[column + $ku][swizzled] = w4[$k];
#end
    workgroupBarrier();
    x_next = x_fetch(t, c + DEPTH + column);
    w_next = w_fetch(r, c + DEPTH + column);
#repeat k 16
    {
      let swizzle = $ku / 4u * 2u;
      let low = xs[$ku][ty ^ swizzle];
      let high = xs[$ku][(SIDE / 8u + ty) ^ swizzle];
#repeat j FOURS
      let w$j = ws[$ku][($ju * 8u + tx) ^ swizzle];
#end
#repeat j FOURS
      s0_$j += low.x * w$j;
      s1_$j += low.y * w$j;
      s2_$j += low.z * w$j;
      s3_$j += low.w * w$j;
      s4_$j += high.x * w$j;
      s5_$j += high.y * w$j;
      s6_$j += high.z * w$j;
      s7_$j += high.w * w$j;
#end
    }
#end
    workgroupBarrier();
  }

#repeat i 8
#repeat j FOURS
  put_four(
    tile.y * SIDE + $iu / 4u * (SIDE / 2u) + ty * 4u + $iu % 4u,
    tile.x * SIDE + $ju * 32u + tx * 4u,
    s$i_$j,
  );
#end
#end
}
