// Rows of codes as bit streams: fields of `bits` bits, code + 2^(bits-1), lowest bits first. One
// invocation a word of packed.

struct Args { R: u32, C: u32, P: u32, bits: u32 }

@group(0) @binding(0) var<storage, read> codes: array<u32>; // i8[R, C]
@group(0) @binding(1) var<storage, read_write> packed: array<u32>; // u32[R, P]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * LANES + lane;
  if i >= args.R * args.P { return; }
  let row = i / args.P;
  let begin = i % args.P * 32u;
  let last = min((begin + 31u) / args.bits, args.C - 1u);
  var word = 0u;
  for (var column = begin / args.bits; column <= last; column++) {
    let e = row * args.C + column;
    let field = bitcast<u32>(i8_of(codes[e / 4u], e) + (1i << (args.bits - 1u)));
    let at = column * args.bits;
    // A field may begin in the word before; its upper part lies here.
    if at >= begin { word |= field << (at - begin); } else { word |= field >> (begin - at); }
  }
  packed[i] = word;
}
