// The scale and zero point of each tile with the least error (src/ops/search_params.ts): one lane a
// candidate, 64 of them at once. One workgroup a word of zero, that is four tiles after one
// another.

override w_dtype: u32;

struct Args {
  R: u32, C: u32, G: u32, A: u32, B: u32,
  bits: u32, grid: u32, tile_rows: u32, tile_columns: u32, scale_dtype: u32, objective: u32,
    is_signed: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> importance: array<f32>; // f32[G, C]
// F32[A, B], as bits: it may be infinite.
@group(0) @binding(2) var<storage, read_write> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> zero: array<u32>; // i8[A, B]
@group(1) @binding(0) var<uniform> args: Args;

const CHUNK = 512u; // elements of a tile in workgroup memory; their errors are summed apart
const LAST_OCTAVE = 100; // of scales; f32 holds no sums of what is still smaller
var<workgroup> chunk: array<vec2<f32>, CHUNK>; // a weight and its importance
var<workgroup> found: array<Found, LANES>;

// What a lane has found: the least error, whose it is, and when the definition looks at it.
struct Found { error: f32, step: f32, offset: f32, order: u32 }

fn stage(tile: Tile, start: u32, lane: u32) {
  workgroupBarrier();
  for (var k = lane; k < min(CHUNK, tile.count - start); k += LANES) {
    let part = tile.row / (args.R / args.G) * args.C;
    let by = importance[part + tile.column + (start + k) % tile.width];
    chunk[k] = vec2(bitcast<f32>(weight_bits(tile, start + k)), by);
  }
  workgroupBarrier();
}

fn cost_of(error: f32) -> f32 {
  if args.objective == 0u { return pow(abs(error), 2.4); }
  return error * error;
}

// Over a tile: the error of a scale, and what fits its codes better, sums of residual·level and
// level². The product of level and step is taken in two parts that are exact, so that the residual
// is: near a perfect fit it would be all rounding.
fn measure(tile: Tile, step: f32, offset: f32, lane: u32) -> vec3<f32> {
  let upper = bitcast<f32>(bitcast<u32>(step) & 0xfffff000u);
  let lower = step - upper;
  let bottom = lowest_code(args.bits, args.grid) - offset;
  let top = highest_code(args.bits) - offset;
  var total = vec3(0.0);
  for (var start = 0u; start < tile.count; start += CHUNK) {
    stage(tile, start, lane);
    var sum = vec3(0.0);
    for (var k = 0u; k < min(CHUNK, tile.count - start); k++) {
      let level = clamp(round(quotient(chunk[k].x, step)), bottom, top);
      let residual = (chunk[k].x - level * upper) - level * lower;
      sum += chunk[k].y * vec3(cost_of(residual), residual * level, level * level);
    }
    total += sum;
  }
  return total;
}

// What weights beyond the outermost levels cost.
fn clipped(tile: Tile, step: f32, offset: f32, lane: u32) -> f32 {
  let affine = args.grid == AFFINE;
  let lowest = lowest_code(args.bits, args.grid);
  let bottom = select(lowest, lowest - offset - 1.0, affine) * step;
  let top = select(-lowest, highest_code(args.bits) - offset + 1.0, affine) * step;
  var total = 0.0;
  for (var start = 0u; start < tile.count; start += CHUNK) {
    stage(tile, start, lane);
    var sum = 0.0;
    for (var k = 0u; k < min(CHUNK, tile.count - start); k++) {
      let out = max(bottom - chunk[k].x, chunk[k].x - top);
      if out > 0.0 { sum += chunk[k].y * cost_of(out); }
    }
    total += sum;
  }
  return total;
}

fn steps_of() -> u32 {
  return min(1u << (args.bits + 2u), 512u);
}

// Candidate k of the positive scales.
fn candidate(k: i32, reach: f32) -> f32 {
  let steps = steps_of();
  let octave = k >> firstTrailingBit(steps);
  let least = smallest_scale(args.scale_dtype);
  if octave > LAST_OCTAVE { return least; }
  let part = f32(k - octave * i32(steps)) / f32(steps);
  let top = f32(1u << select(args.bits - 1u, args.bits, args.grid == AFFINE));
  let levels = top * bitcast<f32>(u32(octave + 127) << 23u) * (1.0 + part);
  return max(stored_scale(reach / levels, args.scale_dtype), least);
}

// The zero point of each lane's scale with the least error, the lowest of equally good ones.
fn zero_for(tile: Tile, range: vec3<f32>, step: f32, lane: u32) -> f32 {
  if args.grid != AFFINE { return 0.0; }
  let lowest = lowest_code(args.bits, args.grid);
  let highest = highest_code(args.bits);
  var to = clamp(lowest - round(quotient(min(0.0, range.x), step)), lowest, highest);
  var first = min(to, clamp(highest - round(quotient(max(0.0, range.y), step)), lowest, highest));
  for (var i = 0u; i < args.bits; i++) {
    if uniform_max(to - first, lane) <= 0.0 { break; }
    let middle = floor((first + to) * 0.5);
    let here = measure(tile, step, middle, lane).x;
    let above = measure(tile, step, middle + 1.0, lane).x;
    if first < to {
      if above < here { first = middle + 1.0; } else { to = middle; }
    }
  }
  return to;
}

// The better of what was found and the codes of a scale, with the stored scale that fits them best.
// NaN and infinity are never better.
fn consider(tile: Tile, best: Found, step: f32, offset: f32, order: u32, lane: u32) -> Found {
  let sums = measure(tile, step, offset, lane);
  var mine = Found(sums.x, step, offset, order);
  if args.objective == 1u && sums.z > 0.0 {
    let fitted = stored_scale(step + sums.y / sums.z, args.scale_dtype);
    if is_finite(bitcast<u32>(fitted)) && abs(fitted) >= smallest_scale(args.scale_dtype) {
      let shift = fitted - step;
      mine.step = fitted;
      // A difference is known to some last bits of what it was taken from.
      mine.error = max(sums.x - shift * (2.0 * sums.y - shift * sums.z), sums.x * 0x1p-19f);
    }
  }
  if is_finite(bitcast<u32>(mine.error)) && mine.error < best.error { return mine; }
  return best;
}

// Consider each lane's scale, unless it is one that was looked at, and where signs make a
// difference its opposite.
fn consider_both(
  tile: Tile, reach: f32, best: Found, next: Found, fresh: bool, lane: u32,
) -> Found {
  let plain = consider(tile, best, next.step, next.offset, 2u * next.order, lane);
  var better = best;
  if fresh { better = plain; }
  let clips = args.is_signed != 0u && reach > (highest_code(args.bits) + 0.5) * next.step;
  if uniform_max(f32(clips), lane) == 0.0 { return better; }
  let opposite = consider(tile, better, -next.step, next.offset, 2u * next.order + 1u, lane);
  if fresh && clips { better = opposite; }
  return better;
}

// What this lane finds in a finite tile.
fn search(tile: Tile, range: vec3<f32>, reach: f32, start: vec2<f32>, lane: u32) -> Found {
  let steps = steps_of();
  var best = Found(LARGEST, start.x, start.y, 0xffffffffu);
  for (var first = 0u;; first += LANES) {
    let k = i32(first + lane);
    let step = candidate(k, reach);
    let next = Found(0.0, step, zero_for(tile, range, step, lane), u32(k));
    let fresh = k == 0 || step != candidate(k - 1, reach);
    best = consider_both(tile, reach, best, next, fresh, lane);
    let least = -uniform_max(-best.error, lane);
    let lost = clipped(tile, step, next.offset, lane) >= least;
    let last = lost || step == smallest_scale(args.scale_dtype);
    if uniform_max(f32(last && lane == LANES - 1u), lane) > 0.0 { break; }
  }
  for (var first = 0u; first < steps + 16u; first += LANES) {
    let k = -1 - i32(first + lane);
    let step = candidate(k, reach);
    let sound = is_finite(bitcast<u32>(step)) && first + lane < steps + 16u;
    let sane = select(start.x, step, sound);
    let next = Found(0.0, sane, zero_for(tile, range, sane, lane), 0x40000000u + first + lane);
    best = consider_both(tile, reach, best, next, sound && step != candidate(k + 1, reach), lane);
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
    let size = max(abs(range.x), abs(range.y));
    let reach = select(size, max(0.0, range.y) - min(0.0, range.x), args.grid == AFFINE);
    var best = Found(LARGEST, start.x, start.y, 0u);
    if whole && reach > 0.0 { best = search(tile, range, reach, start, lane); }
    found[lane] = best;
    workgroupBarrier();
    if lane == 0u {
      for (var k = 1u; k < LANES; k++) {
        let other = found[k];
        let before = other.error == best.error && other.order < best.order;
        if other.error < best.error || before { best = other; }
      }
      scale[t] = select(INFINITY_BITS, bitcast<u32>(best.step), whole);
      if whole { word |= byte_at(i32(best.offset), t); }
    }
    workgroupBarrier();
  }
  if lane == 0u { zero[first / 4u] = word; }
}
