// x[t] = table[ids[t] - first] for the ids this slice of the table holds; other rows stay. One
// invocation an element of x.

override table_dtype: u32;

struct Args { T: u32, V: u32, C: u32, first: u32 }

@group(0) @binding(0) var<storage, read> ids: array<u32>; // u32[T]
@group(0) @binding(1) var<storage, read> table: array<u32>; // f32|bf16|f16[V, C]
@group(0) @binding(2) var<storage, read_write> x: array<f32>; // f32[T, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.T * args.C { return; }
  let id = ids[i / args.C];
  if id < args.first || id - args.first >= args.V { return; }
  let e = (id - args.first) * args.C + i % args.C;
  x[i] = decode(table[word_of(e, table_dtype)], e, table_dtype);
}
