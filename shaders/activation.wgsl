// Activation functions by number, for shaders that this is put before (src/ops/activation.ts).

// erf for |x| below about 4, beyond which it is 1 in f32 (Abramowitz and Stegun, 7.1.26: off by
// 1.5e-7 at most).
fn erf(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(x));
  let p = t * (0.254829592 +
    t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let y = 1.0 - p * exp(-x * x);
  return select(y, -y, x < 0.0);
}

fn activation(x: f32, kind: u32) -> f32 {
  switch kind {
    case 0u: { return x / (1.0 + exp(-x)); } // SiLU
    case 1u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); } // GELU
    case 2u: { // GELU by tanh: 0.5·(1 + tanh u) = 1 / (1 + e^(−2u))
      return x / (1.0 + exp(-1.5957691 * (x + 0.044715 * x * x * x)));
    }
    default: { return max(x, 0.0); } // ReLU
  }
}

// 1 / (1 + e^y) and 1 / (1 + e^−y), which add up to 1.
fn parts(y: f32) -> vec2<f32> {
  let e = exp(clamp(y, -85.0, 85.0));
  let part = 1.0 / (1.0 + e);
  return vec2(part, e * part);
}

// The derivative of `activation`; that of ReLU is 0 at 0.
fn activation_slope(x: f32, kind: u32) -> f32 {
  switch kind {
    case 0u: {
      let p = parts(-x);
      return p.x + x * p.x * p.y;
    }
    case 1u: {
      return 0.5 * (1.0 + erf(x * 0.70710678)) + x * 0.39894228 * exp(max(-0.5 * x * x, -85.0));
    }
    case 2u: {
      let p = parts(-1.5957691 * (x + 0.044715 * x * x * x));
      return p.x + x * 1.5957691 * (1.0 + 0.134145 * x * x) * p.x * p.y;
    }
    default: { return select(0.0, 1.0, x > 0.0); }
  }
}
