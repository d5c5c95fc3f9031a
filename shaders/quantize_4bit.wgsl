// NF4 or FP4 codes and an absmax per block, as bitsandbytes' CPU code has them; with `given` by the
// absmax that is there. One invocation a word of codes: eight elements; the absmax of a block is
// stored by the one that has its first element.

override w_dtype: u32;

struct Args { N: u32, P: u32, B: u32, block: u32, kind: u32, given: u32 }

@group(0) @binding(0) var<storage, read> w: array<u32>; // f32|bf16|f16[N]
@group(0) @binding(1) var<storage, read_write> codes: array<u32>; // u8[P]
// F32[B], as bits: it may be infinite.
@group(0) @binding(2) var<storage, read_write> absmax: array<u32>;
@group(1) @binding(0) var<uniform> args: Args;

var<workgroup> maxima: array<u32, LANES>;

fn bits_at(i: u32) -> u32 {
  return decode_bits(w[word_of(i, w_dtype)], i, w_dtype);
}

// The largest magnitude of every `stride`th element of a block, as bits; at least infinity when one
// is not finite.
fn most_of(block: u32, offset: u32, stride: u32) -> u32 {
  if args.given != 0u { return select(0u, absmax[min(block, args.B - 1u)], block < args.B); }
  var most = 0u;
  let end = min(args.N, (block + 1u) * args.block);
  for (var i = block * args.block + offset; i < end; i += stride) {
    most = max(most, bits_at(i) & 0x7fffffffu);
  }
  return most;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let word = flat_group(group, groups) * LANES + lane;
  let first = word * 8u;
  // Lanes that share a block look through it together, which blocks of a power of two allow.
  let joined = args.block >= 8u && (args.block & (args.block - 1u)) == 0u;
  let mates = select(1u, min(LANES, args.block / 8u), joined);
  let mate = lane % mates;
  maxima[lane] = most_of(first / args.block, mate, mates);
  workgroupBarrier();
  if first >= args.N { return; }
  var most = 0u;
  for (var n = 0u; n < mates; n++) { most = max(most, maxima[lane - mate + n]); }
  let zero = select(0u, 7u, args.kind == 0u);
  var packed = 0u;
  for (var i = first; i < first + 8u; i++) {
    var code = zero;
    if i < args.N {
      let block = i / args.block;
      let begins = i % args.block == 0u;
      if begins && i != first { most = most_of(block, 0u, 1u); }
      if begins && args.given == 0u { absmax[block] = min(most, INFINITY_BITS); }
      if most >= SMALLEST_BITS && is_finite(most) {
        let value = bitcast<f32>(bits_at(i));
        let divisor = bitcast<f32>(most);
        let full = (block + 1u) * args.block <= args.N;
        let level = select(quotient(value, divisor), value * quotient(1.0, divisor), full);
        code = code_4bit(level, args.kind);
      }
    }
    // The first of two codes is in the high nibble of its byte.
    packed |= code << (4u * ((i & 7u) ^ 1u));
  }
  codes[word] = packed;
}
