// c (+)= alpha · a · bᵀ on rectangles of larger matrices. The product itself is in
// matmul_tile.wgsl.

struct Args {
  A: u32, D: u32, B: u32, E: u32, C: u32, F: u32,
  m: u32, n: u32, k: u32,
  a_row: u32, a_column: u32, a_transposed: u32,
  b_row: u32, b_column: u32, b_transposed: u32,
  c_row: u32, c_column: u32,
  add: u32, half: u32, diagonal: u32, alpha: f32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>; // f32[A, D]
@group(0) @binding(1) var<storage, read> b: array<f32>; // f32[B, E]
@group(0) @binding(2) var<storage, read_write> c: array<f32>; // f32[C, F]
@group(1) @binding(0) var<uniform> args: Args;

fn sizes() -> vec3<u32> {
  return vec3(args.m, args.k, args.n);
}

// Tiles are the blocks of 64 × 64 that `half` speaks of.
fn wanted(group: vec3<u32>) -> bool {
  let row = group.y + args.diagonal / TILE;
  switch args.half {
    case 1u: { return group.x <= row; }
    case 2u: { return group.x >= row; }
    default: { return true; }
  }
}

fn x_at(t: u32, at: u32) -> f32 {
  let i = select(t * args.D + at, at * args.D + t, args.a_transposed != 0u);
  return a[args.a_row * args.D + args.a_column + i];
}

fn w_at(r: u32, at: u32) -> f32 {
  let i = select(r * args.E + at, at * args.E + r, args.b_transposed != 0u);
  return b[args.b_row * args.E + args.b_column + i];
}

fn put(t: u32, r: u32, value: f32) {
  let i = (args.c_row + t) * args.F + args.c_column + r;
  c[i] = select(0.0, c[i], args.add != 0u) + args.alpha * value;
}
