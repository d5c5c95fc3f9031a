// w = level of the code, times the absmax of its block. One invocation an element.

struct Args { P: u32, B: u32, N: u32, block: u32, kind: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>; // u8[P]
@group(0) @binding(1) var<storage, read> absmax: array<f32>; // f32[B]
@group(0) @binding(2) var<storage, read_write> w: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let code = (codes[i / 8u] >> (4u * ((i & 7u) ^ 1u))) & 15u;
  w[i] = level_4bit(code, args.kind) * absmax[i / args.block];
}
