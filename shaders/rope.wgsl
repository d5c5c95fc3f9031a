// Rotary position embedding of the first 2H values of each head. One invocation a pair of values.

struct Args { T: u32, H: u32, D: u32, head_dim: u32, adjacent: u32 }

@group(0) @binding(0) var<storage, read> cos_table: array<f32>; // cos f32[T, H]
@group(0) @binding(1) var<storage, read> sin_table: array<f32>; // sin f32[T, H]
@group(0) @binding(2) var<storage, read_write> x: array<f32>; // f32[T, D], heads of head_dim
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  let pairs = args.D / args.head_dim * args.H; // of a token
  if i >= args.T * pairs { return; }
  let token = i / pairs;
  let h = i % args.H;
  let angle = token * args.H + h;
  let head = token * args.D + i % pairs / args.H * args.head_dim;
  let a = head + select(h, 2u * h, args.adjacent != 0u);
  let b = a + select(args.H, 1u, args.adjacent != 0u);
  let first = x[a];
  let second = x[b];
  x[a] = first * cos_table[angle] - second * sin_table[angle];
  x[b] = second * cos_table[angle] + first * sin_table[angle];
}
