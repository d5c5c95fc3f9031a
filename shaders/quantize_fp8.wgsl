// E4M3 codes of w / scale, saturating. One invocation a word of codes: four elements.

override w_dtype: u32;

struct Args { R: u32, C: u32, A: u32, B: u32, tile_rows: u32, tile_columns: u32 }

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(1) var<storage, read> scale: array<f32>; // f32[A, B]
@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // f8_e4m3[R, C]
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
    let tile = i / args.C / args.tile_rows * args.B + i % args.C / args.tile_columns;
    let value = decode(w[word_of(i, w_dtype)], i, w_dtype);
    word |= f32_to_f8(bitcast<u32>(quotient(value, scale[tile]))) << (8u * (i & 3u));
  }
  codes[first / 4u] = word;
}
