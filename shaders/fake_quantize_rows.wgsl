// Each row rounded to int or fp8 levels of its own scale, and back. One workgroup a row.

struct Args { T: u32, C: u32, kind: u32, bits: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = flat_group(group, groups);
  if row >= args.T { return; }
  var most = 0.0;
  for (var c = lane; c < args.C; c += LANES) { most = max(most, abs(x[row * args.C + c])); }
  most = max_lanes(most, lane);
  let scale = quotient(most, select(448.0, f32((1u << args.bits) - 1u) * 0.5, args.kind == 0u));
  for (var c = lane; c < args.C; c += LANES) {
    let i = row * args.C + c;
    y[i] = level_of(select(quotient(x[i], scale), 0.0, scale == 0.0)) * scale;
  }
}
