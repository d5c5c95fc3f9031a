// Least and greatest value and the sum of magnitudes of each column, added to what was known. One
// invocation a column.

struct Args { T: u32, C: u32, S: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // f32[T, C]
@group(0) @binding(1) var<storage, read_write> stats: array<f32>; // f32[S, C], S = 3
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let c = flat_group(group, groups) * LANES + lane;
  if c >= args.C { return; }
  var low = stats[c];
  var high = stats[args.C + c];
  var sum = 0.0;
  for (var t = 0u; t < args.T; t++) {
    let value = x[t * args.C + c];
    low = min(low, value);
    high = max(high, value);
    sum += abs(value);
  }
  stats[c] = low;
  stats[args.C + c] = high;
  stats[2u * args.C + c] += sum;
}
