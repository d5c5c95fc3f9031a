// Row-wise int8: codes round(x * (127 / absmax)), 0 in skipped columns; absmax leaves out the
// outliers that made a column be skipped. One workgroup four rows, because four rows of any length
// fill whole words of codes.

override x_dtype: u32;

struct Args { T: u32, C: u32, threshold: f32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // f32|bf16|f16[T, C]
@group(0) @binding(1) var<storage, read> skip: array<u32>; // u32[C], 1 where a column is left out
@group(0) @binding(2) var<storage, read_write> codes: array<u32>; // i8[T, C]
// F32[T], as bits: it may be infinite.
@group(0) @binding(3) var<storage, read_write> absmax: array<u32>;
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = flat_group(group, groups) * 4u;
  if first >= args.T { return; }
  let rows = min(4u, args.T - first);
  var factors = vec4(0.0);
  for (var r = 0u; r < rows; r++) {
    var most = 0.0;
    var broken = 0.0;
    for (var c = lane; c < args.C; c += LANES) {
      let i = (first + r) * args.C + c;
      let bits = decode_bits(x[word_of(i, x_dtype)], i, x_dtype);
      let size = abs(bitcast<f32>(bits));
      if !is_finite(bits) {
        broken = max(broken, f32(1u - skip[c]));
      } else if skip[c] == 0u || size < args.threshold {
        most = max(most, size);
      }
    }
    most = max_lanes(most, lane);
    broken = max_lanes(broken, lane);
    if broken == 0.0 && most > 0.0 { factors[r] = quotient(127.0, most); }
    if lane == 0u { absmax[first + r] = select(bitcast<u32>(most), INFINITY_BITS, broken > 0.0); }
  }

  let begin = first * args.C;
  let end = begin + rows * args.C;
  for (var word = begin / 4u + lane; word * 4u < end; word += LANES) {
    var packed = 0u;
    for (var i = word * 4u; i < min(word * 4u + 4u, end); i++) {
      let factor = factors[(i - begin) / args.C];
      if skip[i % args.C] == 0u && factor > 0.0 {
        let code = clamp(round(decode(x[word_of(i, x_dtype)], i, x_dtype) * factor), -127.0, 127.0);
        packed |= byte_at(i32(code), i);
      }
    }
    codes[word] = packed;
  }
}
