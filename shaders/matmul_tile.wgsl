// The tiled product x · wᵀ that matmul_nt, matmul_packed and gemm share. A shader that stands
// before this file defines fn sizes() -> vec3<u32>                    T, C, R fn wanted(group:
// vec3<u32>) -> bool        whether a tile is to be computed fn x_at(t: u32, c: u32) -> f32
// inside T × C fn w_at(r: u32, c: u32) -> f32             inside R × C fn put(t: u32, r: u32,
// value: f32)         inside T × R One workgroup 64 × 64 elements, one lane 8 × 8 of them in
// registers, 16 columns of C at a time in workgroup memory.

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;
// Vectors of a column of a tile, and one more so that lanes store to different banks.
const PITCH: u32 = 17u;
var<workgroup> xs: array<vec4<f32>, 272>; // [DEPTH][PITCH]: four rows at one column of C
var<workgroup> ws: array<vec4<f32>, 272>;

fn put_four(t: u32, r: u32, values: vec4<f32>) {
  let size = sizes();
  if t >= size.x { return; }
  for (var k = 0u; k < min(4u, size.z - min(r, size.z)); k++) { put(t, r + k, values[k]); }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  if !wanted(group) { return; }
  let size = sizes();
  let last = size - 1u;
  let load_c = lane % DEPTH;
  let load_four = lane / DEPTH;
  let ty = lane / 8u;
  let tx = lane % 8u;
  var s00 = vec4(0.0);
  var s01 = vec4(0.0);
  var s10 = vec4(0.0);
  var s11 = vec4(0.0);
  var s20 = vec4(0.0);
  var s21 = vec4(0.0);
  var s30 = vec4(0.0);
  var s31 = vec4(0.0);
  var s40 = vec4(0.0);
  var s41 = vec4(0.0);
  var s50 = vec4(0.0);
  var s51 = vec4(0.0);
  var s60 = vec4(0.0);
  var s61 = vec4(0.0);
  var s70 = vec4(0.0);
  var s71 = vec4(0.0);

  for (var c = 0u; c < size.y; c += DEPTH) {
    let at = min(c + load_c, last.y);
    let inside = c + load_c < size.y;
    for (var four = load_four; four < TILE / 4u; four += 64u / DEPTH) {
      let t = min(vec4(group.y * TILE + four * 4u) + vec4(0u, 1u, 2u, 3u), vec4(last.x));
      let r = min(vec4(group.x * TILE + four * 4u) + vec4(0u, 1u, 2u, 3u), vec4(last.z));
      let x4 = vec4(x_at(t.x, at), x_at(t.y, at), x_at(t.z, at), x_at(t.w, at));
      let w4 = vec4(w_at(r.x, at), w_at(r.y, at), w_at(r.z, at), w_at(r.w, at));
      xs[load_c * PITCH + four] = select(vec4(0.0), x4, inside);
      ws[load_c * PITCH + four] = select(vec4(0.0), w4, inside);
    }
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
      let a0 = xs[k * PITCH + ty];
      let a1 = xs[k * PITCH + 8u + ty];
      let b0 = ws[k * PITCH + tx];
      let b1 = ws[k * PITCH + 8u + tx];
      s00 += a0.x * b0;
      s01 += a0.x * b1;
      s10 += a0.y * b0;
      s11 += a0.y * b1;
      s20 += a0.z * b0;
      s21 += a0.z * b1;
      s30 += a0.w * b0;
      s31 += a0.w * b1;
      s40 += a1.x * b0;
      s41 += a1.x * b1;
      s50 += a1.y * b0;
      s51 += a1.y * b1;
      s60 += a1.z * b0;
      s61 += a1.z * b1;
      s70 += a1.w * b0;
      s71 += a1.w * b1;
    }
    workgroupBarrier();
  }

  let row = group.y * TILE + ty * 4u;
  let column = group.x * TILE + tx * 4u;
  put_four(row + 0u, column, s00);
  put_four(row + 0u, column + 32u, s01);
  put_four(row + 1u, column, s10);
  put_four(row + 1u, column + 32u, s11);
  put_four(row + 2u, column, s20);
  put_four(row + 2u, column + 32u, s21);
  put_four(row + 3u, column, s30);
  put_four(row + 3u, column + 32u, s31);
  put_four(row + 32u, column, s40);
  put_four(row + 32u, column + 32u, s41);
  put_four(row + 33u, column, s50);
  put_four(row + 33u, column + 32u, s51);
  put_four(row + 34u, column, s60);
  put_four(row + 34u, column + 32u, s61);
  put_four(row + 35u, column, s70);
  put_four(row + 35u, column + 32u, s71);
}
