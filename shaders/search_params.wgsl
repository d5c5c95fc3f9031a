// The scale and zero point of each tile with the least error, of 80 candidates (objective 1: with and without a
// least-squares refit of each). One workgroup a word of zero, that is four tiles after one another; one lane a candidate.

override w_dtype: u32;

struct Args {
  R: u32, C: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32, scale_dtype: u32, objective: u32, is_signed: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> importance: array<f32>; // f32[C]
@group(0) @binding(2) var<storage, read_write> scale: array<u32>; // f32[A, B], as bits: it may be infinite
@group(0) @binding(3) var<storage, read_write> zero: array<u32>; // i8[A, B]
@group(1) @binding(0) var<uniform> args: Args;

const STEPS = 80u;
const CHUNK = 480u; // elements of a tile in workgroup memory; their errors are summed apart
var<workgroup> chunk: array<vec2<f32>, CHUNK>; // a weight and its importance
var<workgroup> lows: array<f32, STEPS>;
var<workgroup> highs: array<f32, STEPS>;
var<workgroup> broken: atomic<u32>;
var<workgroup> errors: array<f32, STEPS>;
var<workgroup> scales: array<f32, STEPS>;
var<workgroup> zeros: array<f32, STEPS>;

fn stage(tile: Tile, start: u32, lane: u32) {
  workgroupBarrier();
  for (var k = lane; k < min(CHUNK, tile.count - start); k += STEPS) {
    let by = importance[tile.column + (start + k) % tile.width];
    chunk[k] = vec2(bitcast<f32>(weight_bits(tile, start + k)), by);
  }
  workgroupBarrier();
}

// The code of a weight less the zero point.
fn level_of(weight: f32, step: f32, offset: f32) -> f32 {
  let code = round(quotient(weight, step)) + offset;
  return clamp(code, lowest_code(args.bits, args.grid), highest_code(args.bits)) - offset;
}

// Over a tile: the error of a scale; and for a refit (objective 1), sums of residual·level and level². The product of level and
// step is taken in two parts that are exact, so that the residual is: near a perfect fit it would be all rounding.
fn measure(tile: Tile, step: f32, offset: f32, lane: u32) -> vec3<f32> {
  let upper = bitcast<f32>(bitcast<u32>(step) & 0xfffff000u);
  let lower = step - upper;
  var total = vec3(0.0);
  for (var start = 0u; start < tile.count; start += CHUNK) {
    stage(tile, start, lane);
    var sum = vec3(0.0);
    for (var k = 0u; k < min(CHUNK, tile.count - start); k++) {
      let weight = chunk[k].x;
      let by = chunk[k].y;
      let level = level_of(weight, step, offset);
      let residual = (weight - level * upper) - level * lower;
      if args.objective == 0u {
        sum.x += by * pow(abs(residual), 2.4);
      } else {
        sum += by * vec3(residual * residual, residual * level, level * level);
      }
    }
    total += sum;
  }
  return total;
}

// Range of a tile: low, high, and whether it holds a number that is not finite.
fn range_of(tile: Tile, lane: u32) -> vec3<f32> {
  if lane == 0u { atomicStore(&broken, 0u); }
  workgroupBarrier();
  var low = LARGEST;
  var high = -LARGEST;
  for (var e = lane; e < tile.count; e += STEPS) {
    let bits = weight_bits(tile, e);
    if !is_finite(bits) { atomicStore(&broken, 1u); }
    low = min(low, bitcast<f32>(bits));
    high = max(high, bitcast<f32>(bits));
  }
  lows[lane] = low;
  highs[lane] = high;
  workgroupBarrier();
  for (var k = 0u; k < STEPS; k++) {
    low = min(low, lows[k]);
    high = max(high, highs[k]);
  }
  return vec3(low, high, f32(atomicLoad(&broken)));
}

// A scale with which the largest weight of a range meets the lowest code, or for the upper half of the lanes its opposite.
fn signed_scale(range: vec2<f32>, lane: u32) -> f32 {
  let extreme = select(range.y, range.x, -range.x > range.y);
  if extreme == 0.0 { return 1.0; }
  let part = f32(110u - 2u * (lane % 40u)) / 100.0;
  let size = max(
    stored_scale(part * abs(extreme) / f32(1u << (args.bits - 1u)), args.scale_dtype),
    smallest_scale(args.scale_dtype),
  );
  return select(size, -size, (extreme < 0.0) != (lane < 40u));
}

@compute @workgroup_size(STEPS)
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
    let shrink = f32(100u - lane) / 100.0;
    var found = grid_of(shrink * range.x, shrink * range.y, args.bits, args.grid, args.scale_dtype);
    if args.is_signed != 0u { found = vec2(signed_scale(range.xy, lane), 0.0); }
    var step = found.x;
    let sums = measure(tile, step, found.y, lane);
    var error = sums.x;
    if args.objective == 1u {
      let refitted = stored_scale(step + sums.y / sums.z, args.scale_dtype);
      let size = select(refitted, abs(refitted), args.is_signed != 0u);
      let usable = sums.z > 0.0 && size >= smallest_scale(args.scale_dtype);
      let other = measure(tile, select(step, refitted, usable), found.y, lane).x;
      if other < error { error = other; step = refitted; }
    }
    errors[lane] = error;
    scales[lane] = step;
    zeros[lane] = found.y;
    workgroupBarrier();
    if lane == 0u {
      var best = 0u;
      for (var k = 1u; k < STEPS; k++) { if errors[k] < errors[best] { best = k; } }
      let whole = range.z == 0.0 && is_finite(bitcast<u32>(scales[0]));
      scale[t] = select(INFINITY_BITS, bitcast<u32>(scales[best]), whole);
      if whole { word |= byte_at(i32(zeros[best]), t); }
    }
    workgroupBarrier();
  }
  if lane == 0u { zero[first / 4u] = word; }
}
