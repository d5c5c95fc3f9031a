// Four columns of a weight in bf16 or f16.

override w_dtype: u32;

alias Stored = vec2<u32>;

fn widened(four: Stored) -> vec4<f32> {
  if w_dtype == BF16 {
    return bitcast<vec4<f32>>(
      vec4(four.x << 16u, four.x & 0xffff0000u, four.y << 16u, four.y & 0xffff0000u),
    );
  }
  let halves = vec4(four.x & 0xffffu, four.x >> 16u, four.y & 0xffffu, four.y >> 16u);
  return bitcast<vec4<f32>>(vec4(
    f16_to_f32(halves.x),
    f16_to_f32(halves.y),
    f16_to_f32(halves.z),
    f16_to_f32(halves.w),
  ));
}
