// NF4 and FP4 for the shaders that round to them; src/codebook.ts has the tables' origin. Kind 0 is
// NF4, 1 FP4.

// Midpoints between neighbouring levels, FP4's codes in ascending order of value, and the levels by
// code (FP4's upper eight are negative).
const NF4_BOUNDS = array<f32, 15>(
  -0.8480964, -0.6106329, -0.45999527, -0.33967942, -0.2346074, -0.13791174, -0.045525018,
    0.03979015,
  0.12025525, 0.20352125, 0.29201376, 0.38931254, 0.50166345, 0.6427869, 0.86147845,
);
const FP4_BOUNDS = array<f32, 15>(
  -0.8333334, -0.5833334, -0.4166667, -0.2916667, -0.20833334, -0.0859375, -0.0026041667, 0.0,
  0.0026041667, 0.0859375, 0.20833334, 0.2916667, 0.4166667, 0.5833334, 0.8333334,
);
const FP4_ORDER = array<u32, 16>(11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3);
const NF4 = array<f32, 16>(
  -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
  0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
);
const FP4 = array<f32, 8>(
  0.0, 0.0052083335, 0.6666667, 1.0, 0.33333334, 0.5, 0.16666667, 0.25,
);

// The code of the level nearest to a value in [-1, 1].
fn code_4bit(value: f32, kind: u32) -> u32 {
  var rank = 0u;
  if kind == 0u {
    for (var k = 0u; k < 15u; k++) { rank += u32(value > NF4_BOUNDS[k]); }
    return rank;
  }
  for (var k = 0u; k < 15u; k++) { rank += u32(value > FP4_BOUNDS[k]); }
  return FP4_ORDER[rank];
}

// The level of a code.
fn level_4bit(code: u32, kind: u32) -> f32 {
  if kind == 0u { return NF4[code]; }
  return select(FP4[code & 7u], -FP4[code & 7u], code >= 8u);
}
