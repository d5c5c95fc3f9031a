// g = r * (h - mean(h) - (x - mean(x)) * r² * mean((x - mean(x)) * h)) with h = g * weight and r =
// 1 / sqrt(var(x) + eps). One workgroup a row.

override weight_dtype: u32;

struct Args { T: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> weight: array<u32>; // f32|bf16|f16[C]
@group(0) @binding(2) var<storage, read_write> g: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

fn weighted(first: u32, c: u32) -> f32 {
  return g[first + c] * decode(weight[word_of(c, weight_dtype)], c, weight_dtype);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = flat_group(group, groups);
  if row >= args.T { return; }
  let first = row * args.C;
  var sum = 0.0;
  var sum_h = 0.0;
  for (var c = lane; c < args.C; c += LANES) {
    sum += x[first + c];
    sum_h += weighted(first, c);
  }
  let mean = sum_lanes(sum, lane) / f32(args.C);
  let middle = sum_lanes(sum_h, lane) / f32(args.C);
  var square = 0.0;
  var along = 0.0;
  for (var c = lane; c < args.C; c += LANES) {
    let off = x[first + c] - mean;
    square += off * off;
    along += off * weighted(first, c);
  }
  let factor = 1.0 / sqrt(sum_lanes(square, lane) / f32(args.C) + args.eps);
  let back = factor * factor * (sum_lanes(along, lane) / f32(args.C));
  for (var c = lane; c < args.C; c += LANES) {
    g[first + c] = factor * (weighted(first, c) - middle - (x[first + c] - mean) * back);
  }
}
