// x = table[code] * absmax of the block, plus the offset. One invocation an element.

struct Args { N: u32, B: u32, K: u32, block: u32, offset: f32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>; // u8[N]
@group(0) @binding(1) var<storage, read> absmax: array<f32>; // f32[B]
@group(0) @binding(2) var<storage, read> table: array<f32>; // f32[K], K = 256
@group(0) @binding(3) var<storage, read_write> x: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  x[i] = table[u8_of(codes[i / 4u], i)] * absmax[i / args.block] + args.offset;
}
