// y = x · wᵀ in exact integers. One workgroup 32 × 32 elements of y, one lane 4 × 4, four columns
// of C at a time.

struct Args { T: u32, C: u32, R: u32 }

@group(0) @binding(0) var<storage, read> x: array<u32>; // i8[T, C]
@group(0) @binding(1) var<storage, read> w: array<u32>; // i8[R, C]
@group(0) @binding(2) var<storage, read_write> y: array<i32>; // i32[T, R]
@group(1) @binding(0) var<uniform> args: Args;

const TILE = 32u; // rows of x and of w a workgroup takes
const DEPTH = 8u; // words of four columns it holds of each
var<workgroup> xs: array<vec4<u32>, 64>; // [DEPTH][TILE / 4] of four rows' words
var<workgroup> ws: array<vec4<u32>, 64>;

// Bytes of a word that lie in columns before C.
fn inside(c: u32) -> u32 {
  if c >= args.C { return 0u; }
  return 0xffffffffu >> (8u * (4u - min(4u, args.C - c)));
}

// Four columns of a row from c on. Rows of any length follow one another, so they may begin inside
// a word.
fn x_at(t: u32, c: u32) -> u32 {
  let i = min(t, args.T - 1u) * args.C + min(c, args.C - 1u);
  let shift = 8u * (i & 3u);
  var word = x[i / 4u] >> shift;
  if shift > 0u { word |= x[i / 4u + 1u] << (32u - shift); }
  return word & inside(c);
}

fn w_at(r: u32, c: u32) -> u32 {
  let i = min(r, args.R - 1u) * args.C + min(c, args.C - 1u);
  let shift = 8u * (i & 3u);
  var word = w[i / 4u] >> shift;
  if shift > 0u { word |= w[i / 4u + 1u] << (32u - shift); }
  return word & inside(c);
}

fn dots(a: u32, b: vec4<u32>) -> vec4<i32> {
  return vec4(
    dot4I8Packed(a, b.x),
    dot4I8Packed(a, b.y),
    dot4I8Packed(a, b.z),
    dot4I8Packed(a, b.w),
  );
}

fn put(t: u32, r: u32, values: vec4<i32>) {
  if t >= args.T { return; }
  for (var k = 0u; k < min(4u, args.R - min(r, args.R)); k++) { y[t * args.R + r + k] = values[k]; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y * TILE;
  let r = group.x * TILE;
  let depth = lane % DEPTH;
  let four = lane / DEPTH;
  let mine = lane / 8u;
  let other = lane % 8u;
  var s0 = vec4<i32>();
  var s1 = vec4<i32>();
  var s2 = vec4<i32>();
  var s3 = vec4<i32>();
  for (var c = 0u; c < args.C; c += DEPTH * 4u) {
    let at = c + depth * 4u;
    let row = t + four * 4u;
    let column = r + four * 4u;
    xs[depth * 8u + four] =
      vec4(x_at(row, at), x_at(row + 1u, at), x_at(row + 2u, at), x_at(row + 3u, at));
    ws[depth * 8u + four] =
      vec4(w_at(column, at), w_at(column + 1u, at), w_at(column + 2u, at), w_at(column + 3u, at));
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let a = xs[k * 8u + mine];
      let b = ws[k * 8u + other];
      s0 += dots(a.x, b);
      s1 += dots(a.y, b);
      s2 += dots(a.z, b);
      s3 += dots(a.w, b);
    }
    workgroupBarrier();
  }
  let row = t + mine * 4u;
  let column = r + other * 4u;
  put(row, column, s0);
  put(row + 1u, column, s1);
  put(row + 2u, column, s2);
  put(row + 3u, column, s3);
}
