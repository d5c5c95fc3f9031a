// gemm for rectangles whose rows and first columns 4 divides in their tensors, before
// matmul_unrolled.wgsl. What stands before it says which operands lie as depth × rows: const
// A_TRANSPOSED, B_TRANSPOSED.

struct Args {
  A: u32, D: u32, B: u32, E: u32, C: u32, F: u32,
  m: u32, n: u32, k: u32,
  a_row: u32, a_column: u32, a_transposed: u32,
  b_row: u32, b_column: u32, b_transposed: u32,
  c_row: u32, c_column: u32,
  add: u32, half: u32, diagonal: u32, alpha: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>; // f32[A, D]
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>; // f32[B, E]
@group(0) @binding(2) var<storage, read_write> c: array<vec4<f32>>; // f32[C, F]
@group(1) @binding(0) var<uniform> args: Args;

alias X = array<vec4<f32>, 4>;
alias W = array<vec4<f32>, 4>;

fn sizes() -> vec3<u32> {
  return vec3(args.m, args.k, args.n);
}

// Whether the element lies in a block of 64 × 64 that `half` asks for.
fn wanted_at(t: u32, r: u32) -> bool {
  let row = (t + args.diagonal) / 64u;
  switch args.half {
    case 1u: { return r / 64u <= row; }
    case 2u: { return r / 64u >= row; }
    default: { return true; }
  }
}

// Of a larger tile the corner nearest to the wanted half decides.
fn wanted(tile: vec2<u32>) -> bool {
  let first = tile * SIDE;
  let last = first + SIDE - 1u;
  return select(wanted_at(last.y, first.x), wanted_at(first.y, last.x), args.half == 2u);
}

// Four vectors of an operand for rows i … i + 3 of the product at depths l … l + 3. They run along
// the depth, or with `transposed` along the rows, of which the tensor has `count`.
fn places(i: u32, l: u32, count: u32, start: u32, pitch: u32, transposed: bool) -> vec4<u32> {
  let steps = vec4(0u, 1u, 2u, 3u);
  if transposed { return start + (l + steps) * pitch + min(i, count - 1u) / 4u; }
  return start + min(i + steps, vec4(count - 1u)) * pitch + l / 4u;
}

fn x_fetch(t: u32, l: u32) -> X {
  let start = (args.a_row * args.D + args.a_column) / 4u;
  let i = places(t, l, args.m, start, args.D / 4u, A_TRANSPOSED);
  return within(X(a[i.x], a[i.y], a[i.z], a[i.w]), l, A_TRANSPOSED);
}

fn w_fetch(r: u32, l: u32) -> W {
  let start = (args.b_row * args.E + args.b_column) / 4u;
  let i = places(r, l, args.n, start, args.E / 4u, B_TRANSPOSED);
  return within(W(b[i.x], b[i.y], b[i.z], b[i.w]), l, B_TRANSPOSED);
}

// A block with zeros past the end of the depth: whole vectors where they run along rows, else
// components.
fn within(block: X, l: u32, transposed: bool) -> X {
  let inside = vec4(l, l + 1u, l + 2u, l + 3u) < vec4(args.k);
  if transposed {
    return X(
      select(vec4<f32>(), block[0], inside.x),
      select(vec4<f32>(), block[1], inside.y),
      select(vec4<f32>(), block[2], inside.z),
      select(vec4<f32>(), block[3], inside.w),
    );
  }
  return X(
    select(vec4<f32>(), block[0], inside),
    select(vec4<f32>(), block[1], inside),
    select(vec4<f32>(), block[2], inside),
    select(vec4<f32>(), block[3], inside),
  );
}

fn x_open(block: X) -> mat4x4<f32> {
  let rows = mat4x4(block[0], block[1], block[2], block[3]);
  if A_TRANSPOSED { return rows; }
  return transpose(rows);
}

fn w_open(block: W) -> mat4x4<f32> {
  let rows = mat4x4(block[0], block[1], block[2], block[3]);
  if B_TRANSPOSED { return rows; }
  return transpose(rows);
}

fn put_four(t: u32, r: u32, values: vec4<f32>) {
  if t >= args.m || r >= args.n || !wanted_at(t, r) { return; }
  let i = ((args.c_row + t) * args.F + args.c_column + r) / 4u;
  let inside = vec4(r, r + 1u, r + 2u, r + 3u) < vec4(args.n);
  var before = vec4<f32>();
  if args.add != 0u || !inside.w { before = c[i]; }
  let after = select(vec4<f32>(), before, args.add != 0u) + args.alpha * values;
  c[i] = select(before, after, inside);
}
