// y = x rounded to a narrower float, ties to even. One invocation a word of y: two or four
// elements.

override y_dtype: u32;

struct Args { N: u32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // f32[N], as bits
@group(0) @binding(1) var<storage, read_write> y: array<u32>; // bf16|f16|f8_e4m3[N]
@group(1) @binding(0) var<uniform> args: Args;

fn encode(bits: u32) -> u32 {
  switch y_dtype {
    case BF16: { return f32_to_bf16(bits); }
    case F16: { return f32_to_f16(bits); }
    default: { return f32_to_f8(bits); }
  }
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let per_word = select(2u, 4u, y_dtype == F8_E4M3);
  let first = (flat_group(group, groups) * LANES + lane) * per_word;
  if first >= args.N { return; }
  var word = 0u;
  for (var k = 0u; k < min(per_word, args.N - first); k++) {
    word |= encode(x[first + k]) << (k * 32u / per_word);
  }
  y[first / per_word] = word;
}
