// What the CPU does with relaxed SIMD, for `sluice devices`.

/**
 * Whether relaxed_madd rounds once: (1 + 2^-23)² − (1 + 2^-22) is 2^-46 if it does, 0 if it rounds
 * twice.
 */
export function probeFused(): i32 {
  const x = f32x4.splat(load<f32>(ONE)), c = f32x4.splat(-reinterpret<f32>(0x3f800002));
  return i32(f32x4.extract_lane(f32x4.relaxed_madd(x, x, c), 0) != 0);
}

/** 1 + 2^-23, in memory so that the compiler cannot multiply it out. */
const ONE = memory.data<u32>([0x3f800001]);
