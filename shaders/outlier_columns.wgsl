// Which columns of x hold a magnitude of at least the threshold: a flag each, and their indices in
// ascending order after their count. One workgroup for all, so that indices come out in order.

struct Args { T: u32, C: u32, D: u32, threshold: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read_write> skip: array<u32>; // u32[C]
@group(0) @binding(2) var<storage, read_write> columns: array<u32>; // u32[D], D = C + 1
@group(1) @binding(0) var<uniform> args: Args;

const WIDTH = 256u;
var<workgroup> flags: array<u32, WIDTH>;

@compute @workgroup_size(WIDTH)
fn main(@builtin(local_invocation_index) lane: u32) {
  var found = 0u;
  for (var start = 0u; start < args.C; start += WIDTH) {
    let c = start + lane;
    var most = 0.0;
    if c < args.C {
      for (var t = 0u; t < args.T; t++) { most = max(most, abs(x[t * args.C + c])); }
    }
    let flag = u32(c < args.C && args.threshold > 0.0 && most >= args.threshold);
    flags[lane] = flag;
    workgroupBarrier();
    var before = 0u;
    var all = 0u;
    for (var k = 0u; k < WIDTH; k++) {
      before += select(0u, flags[k], k < lane);
      all += flags[k];
    }
    if c < args.C { skip[c] = flag; }
    if flag == 1u { columns[1u + found + before] = c; }
    found += all;
    workgroupBarrier();
  }
  for (var k = 1u + found + lane; k < args.D; k += WIDTH) { columns[k] = 0u; }
  if lane == 0u { columns[0] = found; }
}
