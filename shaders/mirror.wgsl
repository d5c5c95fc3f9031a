// The upper half of a square becomes its lower half, transposed. One invocation an element.

struct Args { P: u32, C: u32, first: u32 }

@group(0) @binding(0) var<storage, read_write> h: array<f32>; // f32[P, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let e = flat_group(group, groups) * LANES + lane;
  if e >= args.P * args.P { return; }
  let i = e / args.P;
  let j = e % args.P;
  if j > i { h[i * args.C + args.first + j] = h[j * args.C + args.first + i]; }
}
