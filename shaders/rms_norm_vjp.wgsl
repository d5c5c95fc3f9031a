// g = r * (h - x * r² * mean(x * h)) with h = g * (weight + plus) and r = 1 / sqrt(mean(x²) + eps),
// over runs of D columns. One workgroup a run.

override weight_dtype: u32;

struct Args { T: u32, C: u32, D: u32, eps: f32, plus: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> weight: array<u32>; // f32|bf16|f16[D]
@group(0) @binding(2) var<storage, read_write> g: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

fn weighted(first: u32, c: u32) -> f32 {
  return g[first + c] * (decode(weight[word_of(c, weight_dtype)], c, weight_dtype) + args.plus);
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let run = flat_group(group, groups);
  if run >= args.T * (args.C / args.D) { return; }
  let first = run * args.D;
  var square = 0.0;
  var along = 0.0;
  for (var c = lane; c < args.D; c += LANES) {
    let value = x[first + c];
    square += value * value;
    along += value * weighted(first, c);
  }
  let factor = 1.0 / sqrt(sum_lanes(square, lane) / f32(args.D) + args.eps);
  let back = factor * factor * (sum_lanes(along, lane) / f32(args.D));
  for (var c = lane; c < args.D; c += LANES) {
    g[first + c] = factor * (weighted(first, c) - x[first + c] * back);
  }
}
