// w = level of the code, times the absmax of its block. One invocation an element.

struct Args { P: u32, B: u32, N: u32, block: u32, kind: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>; // u8[P]
@group(0) @binding(1) var<storage, read> absmax: array<f32>; // f32[B]
@group(0) @binding(2) var<storage, read_write> w: array<f32>; // f32[N]
@group(1) @binding(0) var<uniform> args: Args;

// src/codebook.ts: the levels by code.
const NF4 = array<f32, 16>(
  -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
  0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
);
const FP4 = array<f32, 8>(
  0.0, 0.0052083335, 0.6666667, 1.0, 0.33333334, 0.5, 0.16666667, 0.25,
);

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.N { return; }
  let code = (codes[i / 8u] >> (4u * ((i & 7u) ^ 1u))) & 15u;
  var level = 0.0;
  if args.kind == 0u {
    level = NF4[code];
  } else {
    level = select(FP4[code & 7u], -FP4[code & 7u], code >= 8u);
  }
  w[i] = level * absmax[i / args.block];
}
