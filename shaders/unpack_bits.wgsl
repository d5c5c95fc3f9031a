// Codes from rows of bit streams (pack_bits). One invocation a word of codes: four elements.

struct Args { R: u32, P: u32, C: u32, bits: u32 }

@group(0) @binding(0) var<storage, read> packed: array<u32>; // u32[R, P]
@group(0) @binding(1) var<storage, read_write> codes: array<u32>; // i8[R, C]
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
  let mask = (1u << args.bits) - 1u;
  let half = 1i << (args.bits - 1u);
  var word = 0u;
  for (var i = first; i < min(first + 4u, count); i++) {
    let at = i % args.C * args.bits;
    let start = i / args.C * args.P + at / 32u;
    let shift = at % 32u;
    var field = packed[start] >> shift;
    if shift + args.bits > 32u { field |= packed[start + 1u] << (32u - shift); }
    word |= byte_at(bitcast<i32>(field & mask) - half, i);
  }
  codes[first / 4u] = word;
}
