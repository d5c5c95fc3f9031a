// The reverse Cholesky factor of a diagonal block and its inverse, by one workgroup. The factor is
// held as its upper triangle, column after column: element [i, j] at j(j + 1)/2 + i.

struct Args { P: u32, C: u32, K: u32, S: u32, first: u32, panel: u32, least: f32 }

@group(0) @binding(0) var<storage, read> m: array<f32>; // f32[P, C]
@group(0) @binding(1) var<storage, read_write> s: array<f32>; // f32[C, K]
@group(0) @binding(2) var<storage, read_write> t: array<f32>; // f32[K, K], K = 64
@group(0) @binding(3) var<storage, read_write> status: array<f32>; // f32[1]
@group(1) @binding(0) var<uniform> args: Args;

var<workgroup> r: array<f32, 2080>;

fn at(i: u32, j: u32) -> u32 {
  return j * (j + 1u) / 2u + i;
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_index) lane: u32) {
  let count = min(args.K, args.C - args.first);
  let start = (args.first - args.panel) * args.C + args.first;
  var pivot = LARGEST; // that of this lane's column
  // Column after column from the last; a lane has a row.
  for (var left = count; left > 0u; left--) {
    let j = left - 1u;
    var sum = 0.0;
    if lane <= j {
      sum = m[start + lane * args.C + j];
      for (var k = left; k < count; k++) { sum -= r[at(lane, k)] * r[at(j, k)]; }
    }
    if lane == j {
      let sound = sum >= args.least && is_finite(bitcast<u32>(sum));
      pivot = select(-1.0, sum, sound);
      r[at(j, j)] = sqrt(select(1.0, sum, sound));
    }
    workgroupBarrier();
    if lane < j { r[at(lane, j)] = sum / r[at(j, j)]; }
    workgroupBarrier();
  }
  let least = -max_lanes(-pivot, lane);
  if lane == 0u { status[0] = min(status[0], least); }
  // A lane has a column of the inverse, from the last row up.
  if lane >= count { return; }
  for (var left = count; left > 0u; left--) {
    let i = left - 1u;
    var sum = select(0.0, 1.0, i == lane);
    for (var k = left; k <= lane; k++) { sum -= r[at(i, k)] * t[k * args.K + lane]; }
    t[i * args.K + lane] = select(sum / r[at(i, i)], 0.0, i > lane);
    s[(args.first + i) * args.K + lane] = select(0.0, 1.0, i == lane);
  }
}
