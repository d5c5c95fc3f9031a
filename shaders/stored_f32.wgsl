// Four columns of a weight in f32.

alias Stored = vec4<f32>;

fn widened(four: Stored) -> vec4<f32> {
  return four;
}
