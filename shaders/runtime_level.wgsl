// The level nearest to a quotient, as a runtime rounds activations: kind 0 the full integer grid, 1
// E4M3. To be put before a shader that has args.

fn level_of(multiple: f32) -> f32 {
  if args.kind == 0u {
    return clamp(round(multiple), lowest_code(args.bits, 0u), highest_code(args.bits));
  }
  return bitcast<f32>(f8_to_f32(f32_to_f8(bitcast<u32>(multiple))));
}
