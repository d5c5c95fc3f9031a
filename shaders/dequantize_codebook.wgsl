// w = the level of the code; each table serves table_rows rows. Levels are copied as bits: they may
// be NaN. One invocation an element.

struct Args { R: u32, C: u32, A: u32, K: u32, table_rows: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>; // u8[R, C]
@group(0) @binding(1) var<storage, read> table: array<u32>; // f32[A, K]
@group(0) @binding(2) var<storage, read_write> w: array<u32>; // f32[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.R * args.C { return; }
  let code = min(u8_of(codes[i / 4u], i), args.K - 1u);
  w[i] = table[i / args.C / args.table_rows * args.K + code];
}
