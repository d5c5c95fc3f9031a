// y = x / sqrt(mean(x²) + eps) * (weight + plus), over runs of D columns. One workgroup a run.

override weight_dtype: u32;

struct Args { T: u32, C: u32, D: u32, eps: f32, plus: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> weight: array<u32>; // f32|bf16|f16[D]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

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
  for (var c = lane; c < args.D; c += LANES) {
    let value = x[first + c];
    square += value * value;
  }
  let factor = 1.0 / sqrt(sum_lanes(square, lane) / f32(args.D) + args.eps);
  for (var c = lane; c < args.D; c += LANES) {
    let w = decode(weight[word_of(c, weight_dtype)], c, weight_dtype) + args.plus;
    y[first + c] = x[first + c] * factor * w;
  }
}
