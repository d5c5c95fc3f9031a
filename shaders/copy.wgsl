// A rectangle of one matrix to a place in another, transposed if asked. One invocation an element.

struct Args {
  A: u32, D: u32, B: u32, E: u32,
  rows: u32, columns: u32, from_row: u32, from_column: u32, to_row: u32, to_column: u32,
    transposed: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>; // f32[A, D]
@group(0) @binding(1) var<storage, read_write> target_: array<f32>; // f32[B, E]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let e = flat_group(group, groups) * LANES + lane;
  if e >= args.rows * args.columns { return; }
  let i = e / args.columns;
  let j = e % args.columns;
  let row = args.from_row + select(i, j, args.transposed != 0u);
  let column = args.from_column + select(j, i, args.transposed != 0u);
  target_[(args.to_row + i) * args.E + args.to_column + j] = source[row * args.D + column];
}
