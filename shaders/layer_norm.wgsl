// y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. One workgroup a row.

override weight_dtype: u32;
override bias_dtype: u32;

struct Args { T: u32, C: u32, eps: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> weight: array<u32>; // f32|bf16|f16[C]
@group(0) @binding(2) var<storage, read> bias: array<u32>; // f32|bf16|f16[C]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

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
  for (var c = lane; c < args.C; c += LANES) { sum += x[first + c]; }
  let mean = sum_lanes(sum, lane) / f32(args.C);
  var square = 0.0;
  for (var c = lane; c < args.C; c += LANES) {
    let value = x[first + c] - mean;
    square += value * value;
  }
  let factor = 1.0 / sqrt(sum_lanes(square, lane) / f32(args.C) + args.eps);
  for (var c = lane; c < args.C; c += LANES) {
    y[first + c] = (x[first + c] - mean) * factor *
        decode(weight[word_of(c, weight_dtype)], c, weight_dtype) +
      decode(bias[word_of(c, bias_dtype)], c, bias_dtype);
  }
}
