// x (of C columns, which 4 divides) and y of matmul_nt and matmul_packed, for matmul_unrolled.wgsl.

alias X = array<vec4<f32>, 4>;

fn x_fetch(t: u32, c: u32) -> X {
  let i = min(vec4(t, t + 1u, t + 2u, t + 3u), vec4(args.T - 1u)) * (args.C / 4u) + c / 4u;
  let inside = c < args.C;
  return X(
    select(vec4<f32>(), x[i.x], inside),
    select(vec4<f32>(), x[i.y], inside),
    select(vec4<f32>(), x[i.z], inside),
    select(vec4<f32>(), x[i.w], inside),
  );
}

fn x_open(block: X) -> mat4x4<f32> {
  return transpose(mat4x4(block[0], block[1], block[2], block[3]));
}

fn wanted(tile: vec2<u32>) -> bool {
  return true;
}

fn sizes() -> vec3<u32> {
  return vec3(args.T, args.C, args.R);
}

// Columns of y are stored one by one: they may begin anywhere.
fn put_four(t: u32, r: u32, values: vec4<f32>) {
  if t >= args.T { return; }
  let i = t * args.Y + args.column + r;
  if r < args.R { y[i] = values.x; }
  if r + 1u < args.R { y[i + 1u] = values.y; }
  if r + 2u < args.R { y[i + 2u] = values.z; }
  if r + 3u < args.R { y[i + 3u] = values.w; }
}
