// y[t, column + r] = Σ x[t, c] · w[r, c]. The product itself is in matmul_tile.wgsl.

override w_dtype: u32;

struct Args { T: u32, C: u32, R: u32, Y: u32, column: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read> w: array<u32>; // f32|bf16|f16[R, C]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[T, Y]
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
  let i = r * args.C + c;
  return decode(w[word_of(i, w_dtype)], i, w_dtype);
}

fn put(t: u32, r: u32, value: f32) {
  y[t * args.Y + args.column + r] = value;
}
