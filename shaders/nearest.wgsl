// The value of a grid nearest to a weight (src/ops/nearest.ts): kind 0 int, 1 fp8, 2 NF4, 3 FP4.
// Needs codebook.wgsl.

fn nearest(weight: f32, step: f32, offset: f32, kind: u32, bits: u32, grid: u32) -> f32 {
  switch kind {
    case 0u: {
      let code = round(quotient(weight, step)) + offset;
      return (clamp(code, lowest_code(bits, grid), highest_code(bits)) - offset) * step;
    }
    case 1u: {
      let code = f32_to_f8(bitcast<u32>(quotient(weight, step)));
      return bitcast<f32>(f8_to_f32(code)) * step;
    }
    default: {
      if step == 0.0 { return 0.0; }
      let code = code_4bit(weight * quotient(1.0, step), kind - 2u);
      return level_4bit(code, kind - 2u) * step;
    }
  }
}
