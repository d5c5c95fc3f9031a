// Rotary position embedding, the halves of a head being the two coordinates. One invocation a pair of values.

struct Args { T: u32, H: u32, D: u32 }

@group(0) @binding(0) var<storage, read> cos_table: array<f32>; // cos f32[T, H]
@group(0) @binding(1) var<storage, read> sin_table: array<f32>; // sin f32[T, H]
@group(0) @binding(2) var<storage, read_write> x: array<f32>; // f32[T, D], heads of 2H
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.T * args.D / 2u { return; }
  let head = i / args.H;
  let h = i % args.H;
  let angle = i / (args.D / 2u) * args.H + h;
  let a = head * 2u * args.H + h;
  let b = a + args.H;
  let first = x[a];
  let second = x[b];
  x[a] = first * cos_table[angle] - second * sin_table[angle];
  x[b] = second * cos_table[angle] + first * sin_table[angle];
}
