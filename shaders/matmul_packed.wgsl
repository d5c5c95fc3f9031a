// y[t, column + r] = Σ x[t, c] · (code - zero) · scale, the codes being unpacked on the way.
// The product itself is in matmul_tile.wgsl.

struct Args { T: u32, C: u32, R: u32, P: u32, G: u32, Y: u32, bits: u32, column: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> w: array<u32>; // u32[R, P], as pack_bits has it
@group(0) @binding(2) var<storage, read> scale: array<f32>; // f32[R, G]
@group(0) @binding(3) var<storage, read> zero: array<u32>; // i8[R, G]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // f32[T, Y]
@group(1) @binding(0) var<uniform> args: Args;

fn sizes() -> vec3<u32> {
  return vec3(args.T, args.C, args.R);
}

fn wanted(group: vec3<u32>) -> bool {
  return true;
}

fn x_at(t: u32, c: u32) -> f32 {
  return x[t * args.C + c];
}

fn w_at(r: u32, c: u32) -> f32 {
  let at = c * args.bits;
  let start = r * args.P + at / 32u;
  let shift = at % 32u;
  var field = w[start] >> shift;
  if shift + args.bits > 32u { field |= w[start + 1u] << (32u - shift); }
  let code = bitcast<i32>(field & ((1u << args.bits) - 1u)) - (1i << (args.bits - 1u));
  let group = r * args.G + c / (args.C / args.G);
  return f32(code - i8_of(zero[group / 4u], group)) * scale[group];
}

fn put(t: u32, r: u32, value: f32) {
  y[t * args.Y + args.column + r] = value;
}
