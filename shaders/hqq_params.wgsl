// Half-quadratic scales and zero points (src/ops/hqq_params.ts). One workgroup a word of zero, that
// is four tiles after one another.

override w_dtype: u32;

struct Args {
  R: u32, C: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32, scale_dtype: u32, guard: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> rival_scale: array<f32>; // f32[A, B]
@group(0) @binding(2) var<storage, read> rival_zero: array<u32>; // i8[A, B]
// F32[A, B], as bits: it may be infinite.
@group(0) @binding(3) var<storage, read_write> scale: array<u32>;
@group(0) @binding(4) var<storage, read_write> zero: array<u32>; // i8[A, B]
@group(1) @binding(0) var<uniform> args: Args;

const ITERATIONS = 20u;
const RUN = 256u; // terms a lane sums before it adds to its total

// The code of a weight less the zero point.
fn level_of(weight: f32, params: vec2<f32>) -> f32 {
  let code = round(quotient(weight, params.x)) + params.y;
  return clamp(code, lowest_code(args.bits, args.grid), highest_code(args.bits)) - params.y;
}

// What of an error is too much, at some β.
fn excess_of(apart: f32, beta: f32) -> f32 {
  let size = abs(apart);
  if size < 0.1 { return 0.0; } // nothing at any β: 0.1^-0.3 / 12.1 is more
  return sign(apart) * max(0.0, size - pow(size, -0.3) / beta);
}

// Over a tile: Σ |w − ŵ|, or its squares where β is 0, Σ (w − excess)·level, Σ level². The product
// of level and scale is taken in two parts that are exact.
fn sum_tile(tile: Tile, params: vec2<f32>, beta: f32, lane: u32) -> vec3<f32> {
  let upper = bitcast<f32>(bitcast<u32>(params.x) & 0xfffff000u);
  let lower = params.x - upper;
  var total = vec3(0.0);
  for (var start = lane; start < tile.count; start += RUN * LANES) {
    var sum = vec3(0.0);
    for (var e = start; e < min(tile.count, start + RUN * LANES); e += LANES) {
      let weight = bitcast<f32>(weight_bits(tile, e));
      let level = level_of(weight, params);
      let apart = (weight - level * upper) - level * lower;
      if beta == 0.0 {
        sum.x += apart * apart;
      } else {
        sum += vec3(abs(apart), (weight - excess_of(apart, beta)) * level, level * level);
      }
    }
    total += sum;
  }
  return vec3(sum_lanes(total.x, lane), sum_lanes(total.y, lane), sum_lanes(total.z, lane));
}

// Every lane has the same numbers, so that all take part in every sum; a tile that is done goes on
// without effect.
fn solve(tile: Tile, start: vec2<f32>, lane: u32) -> vec2<f32> {
  let turns = select(1u, 3u, args.grid == AFFINE);
  var best = start;
  var least = LARGEST;
  for (var turn = 0u; turn < turns; turn++) {
    let beside = select(0.0, select(-1.0, 1.0, turn == 2u), turn > 0u);
    var current = vec2(start.x, start.y + beside);
    var before = LARGEST;
    var beta = 10.0;
    var going = current.y >= lowest_code(args.bits, args.grid) &&
      current.y <= highest_code(args.bits);
    for (var i = 0u; i < ITERATIONS; i++) {
      let sums = sum_tile(tile, current, beta, lane);
      going = going && is_finite(bitcast<u32>(sums.x)) && sums.x < before;
      before = select(before, sums.x, going);
      if going && sums.x < least { best = current; least = sums.x; }
      let fitted = stored_scale(sums.y / max(sums.z, 1.0), args.scale_dtype);
      going = going && sums.z > 0.0 && is_finite(bitcast<u32>(fitted)) &&
        fitted >= smallest_scale(args.scale_dtype);
      if going { current.x = fitted; }
      beta *= 1.01;
    }
  }
  return best;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = flat_group(group, groups) * 4u;
  let tiles = args.A * args.B;
  if first >= tiles { return; }
  var word = 0u;
  for (var t = first; t < min(first + 4u, tiles); t++) {
    let tile = tile_at(t);
    let range = range_of(tile, lane);
    let start = grid_of(range.x, range.y, args.bits, args.grid, args.scale_dtype);
    let whole = range.z == 0.0 && is_finite(bitcast<u32>(start.x));
    // Of a tile that is not finite any numbers will do on the way.
    let sound = select(vec2(1.0, 0.0), start, whole);
    var best = solve(tile, sound, lane);
    if args.guard != 0u {
      let rival = vec2(rival_scale[t], f32(i8_of(rival_zero[t / 4u], t)));
      for (var k = 0u; k < 2u; k++) {
        let other = select(sound, rival, k == 1u && whole);
        let least = sum_tile(tile, best, 0.0, lane).x;
        let error = sum_tile(tile, other, 0.0, lane).x;
        if is_finite(bitcast<u32>(error)) && error < least { best = other; }
      }
    }
    if lane == 0u {
      scale[t] = select(INFINITY_BITS, bitcast<u32>(best.x), whole);
      if whole { word |= byte_at(i32(best.y), t); }
    }
  }
  if lane == 0u { zero[first / 4u] = word; }
}
