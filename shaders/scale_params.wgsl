// Scale and zero point of each tile from its range. One invocation a word of zero: four tiles.

struct Args { A: u32, B: u32, bits: u32, grid: u32, scale_dtype: u32 }

@group(0) @binding(0) var<storage, read> low: array<u32>; // f32[A, B], as bits
@group(0) @binding(1) var<storage, read> high: array<u32>; // f32[A, B], as bits
// F32[A, B], as bits: it may be infinite.
@group(0) @binding(2) var<storage, read_write> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> zero: array<u32>; // i8[A, B]
@group(1) @binding(0) var<uniform> args: Args;

@compute @workgroup_size(LANES)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (flat_group(group, groups) * LANES + lane) * 4u;
  let tiles = args.A * args.B;
  if first >= tiles { return; }
  var zeros = 0u;
  for (var tile = first; tile < min(first + 4u, tiles); tile++) {
    if !is_finite(low[tile]) || !is_finite(high[tile]) {
      scale[tile] = INFINITY_BITS;
      continue;
    }
    let found = grid_of(
      bitcast<f32>(low[tile]),
      bitcast<f32>(high[tile]),
      args.bits,
      args.grid,
      args.scale_dtype,
    );
    scale[tile] = bitcast<u32>(found.x);
    zeros |= byte_at(i32(found.y), tile);
  }
  zero[first / 4u] = zeros;
}
