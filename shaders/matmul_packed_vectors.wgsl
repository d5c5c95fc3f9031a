// matmul_packed for C and groups that 4 divides, before matmul_x_y.wgsl and matmul_unrolled.wgsl.

struct Args { T: u32, C: u32, R: u32, P: u32, G: u32, Y: u32, bits: u32, column: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // f32[T, C]
@group(0) @binding(1) var<storage, read> w: array<u32>; // u32[R, P], as pack_bits has it
@group(0) @binding(2) var<storage, read> scale: array<f32>; // f32[R, G]
@group(0) @binding(3) var<storage, read> zero: array<u32>; // i8[R, G]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // f32[T, Y]
@group(1) @binding(0) var<uniform> args: Args;

// Of each of four rows: the words that hold four codes, where in them these begin, and the scale
// and zero point of their group.
struct W {
  low: vec4<u32>,
  high: vec4<u32>,
  shift: u32,
  scale: vec4<f32>,
  zero: vec4<i32>,
}

fn w_fetch(r: u32, c: u32) -> W {
  let rows = min(vec4(r, r + 1u, r + 2u, r + 3u), vec4(args.R - 1u));
  let at = min(c, args.C - 4u) * args.bits;
  let i = rows * args.P + at / 32u;
  let g = rows * args.G + min(c, args.C - 4u) / (args.C / args.G);
  var block: W;
  block.low = vec4(w[i.x], w[i.y], w[i.z], w[i.w]);
  block.shift = at % 32u;
  // Four codes of 2, 4 or 8 bits lie in one word.
  if (args.bits & (args.bits - 1u)) != 0u {
    let next = i + select(0u, 1u, block.shift + 4u * args.bits > 32u);
    block.high = vec4(w[next.x], w[next.y], w[next.z], w[next.w]);
  }
  block.scale = select(
    vec4<f32>(),
    vec4(scale[g.x], scale[g.y], scale[g.z], scale[g.w]),
    c < args.C,
  );
  block.zero = vec4(
    i8_of(zero[g.x / 4u], g.x),
    i8_of(zero[g.y / 4u], g.y),
    i8_of(zero[g.z / 4u], g.z),
    i8_of(zero[g.w / 4u], g.w),
  );
  return block;
}

fn w_open(block: W) -> mat4x4<f32> {
  var fields = block.low >> vec4(block.shift);
  if block.shift + 4u * args.bits > 32u { fields |= block.high << vec4(32u - block.shift); }
  let mask = vec4((1u << args.bits) - 1u);
  let zero = block.zero + (1i << (args.bits - 1u));
  return mat4x4(
    vec4<f32>(vec4<i32>(fields & mask) - zero) * block.scale,
    vec4<f32>(vec4<i32>((fields >> vec4(args.bits)) & mask) - zero) * block.scale,
    vec4<f32>(vec4<i32>((fields >> vec4(2u * args.bits)) & mask) - zero) * block.scale,
    vec4<f32>(vec4<i32>((fields >> vec4(3u * args.bits)) & mask) - zero) * block.scale,
  );
}
