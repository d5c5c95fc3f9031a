// Codes of x - offset in a sorted table of 256 values, with an absmax per block. One invocation a
// word of codes: four elements; the absmax of a block is stored by the one that has its first
// element.

struct Args { N: u32, K: u32, B: u32, block: u32, offset: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[N]
@group(0) @binding(1) var<storage, read> table: array<f32>; // f32[K], K = 256
@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // u8[N]
// F32[B], as bits: it may be infinite.
@group(0) @binding(3) var<storage, read_write> absmax: array<u32>;
@group(1) @binding(0) var<uniform> args: Args;

var<workgroup> maxima: array<u32, LANES>;

// The largest magnitude of every `stride`th element of a block, as bits; at least infinity when one
// is not finite.
fn most_of(block: u32, offset: u32, stride: u32) -> u32 {
  var most = 0u;
  let end = min(args.N, (block + 1u) * args.block);
  for (var i = block * args.block + offset; i < end; i += stride) {
    most = max(most, bitcast<u32>(x[i] - args.offset) & 0x7fffffffu);
  }
  return most;
}

// How many midpoints between neighbouring entries are below a level: the nearest entry, the lower
// of two as near.
fn code_of(level: f32) -> u32 {
  var code = 0u;
  for (var step = 128u; step > 0u; step /= 2u) {
    let next = code + step;
    if level > (table[next - 1u] + table[next]) * 0.5 { code = next; }
  }
  return code;
}

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let word = flat_group(group, groups) * LANES + lane;
  let first = word * 4u;
  // Lanes that share a block look through it together, which blocks of a power of two allow.
  let joined = args.block >= 4u && (args.block & (args.block - 1u)) == 0u;
  let mates = select(1u, min(LANES, args.block / 4u), joined);
  let mate = lane % mates;
  maxima[lane] = most_of(first / args.block, mate, mates);
  workgroupBarrier();
  if first >= args.N { return; }
  var most = 0u;
  for (var n = 0u; n < mates; n++) { most = max(most, maxima[lane - mate + n]); }
  var packed = 0u;
  for (var i = first; i < min(first + 4u, args.N); i++) {
    let block = i / args.block;
    let begins = i % args.block == 0u;
    if begins && i != first { most = most_of(block, 0u, 1u); }
    if begins { absmax[block] = min(most, INFINITY_BITS); }
    var level = 0.0;
    if most >= SMALLEST_BITS && is_finite(most) {
      let divisor = bitcast<f32>(most);
      let full = (block + 1u) * args.block <= args.N;
      let value = x[i] - args.offset;
      level = select(quotient(value, divisor), value * quotient(1.0, divisor), full);
    }
    packed |= code_of(level) << (8u * (i & 3u));
  }
  codes[word] = packed;
}
