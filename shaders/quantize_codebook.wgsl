// Codes of the nearest of K ascending levels; each table serves table_rows rows. One invocation a
// word of codes: four elements.

override w_dtype: u32;

struct Args { R: u32, C: u32, A: u32, K: u32, table_rows: u32 }

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> table: array<f32>; // f32[A, K]
@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // u8[R, C]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flat_group(group, groups) * LANES + lane) * 4u;
  let count = args.R * args.C;
  if first >= count { return; }
  var word = 0u;
  for (var i = first; i < min(first + 4u, count); i++) {
    let levels = i / args.C / args.table_rows * args.K;
    let value = decode(w[word_of(i, w_dtype)], i, w_dtype);
    var rank = 0u;
    for (var k = levels; k < levels + args.K - 1u; k++) {
      rank += u32(value > (table[k] + table[k + 1u]) * 0.5);
    }
    word |= byte_at(i32(rank), i);
  }
  codes[first / 4u] = word;
}
