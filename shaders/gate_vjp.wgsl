// gate_g = activation_slope(gate) * up * g, up_g = activation(gate) * g, of g that is at up_g. One
// invocation an element.

struct Args { N: u32, kind: u32 }

@group(0) @binding(0) var<storage, read> gate: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read> up: array<f32>; // f32[N]
@group(0) @binding(2) var<storage, read_write> up_g: array<f32>; // f32[N]
@group(0) @binding(3) var<storage, read_write> gate_g: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let g = up_g[i];
  gate_g[i] = activation_slope(gate[i], args.kind) * up[i] * g;
  up_g[i] = activation(gate[i], args.kind) * g;
}
