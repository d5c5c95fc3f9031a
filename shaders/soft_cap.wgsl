// cap * tanh(x / cap), for shaders that this is put before; x itself where cap is 0.

fn soft_cap(x: f32, cap: f32) -> f32 {
  // WGSL leaves tanh of large numbers to the device; beyond 20 it is 1 in f32.
  if cap == 0.0 { return x; }
  return cap * tanh(clamp(x / cap, -20.0, 20.0));
}
