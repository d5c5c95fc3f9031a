// matmul_nt for C that 4 divides, before matmul_x_y.wgsl and matmul_unrolled.wgsl. What stands
// before it says how four columns of w are stored: alias Stored, fn widened(Stored) -> vec4<f32>.

struct Args { T: u32, C: u32, R: u32, Y: u32, column: u32 }

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // f32[T, C]
@group(0) @binding(1) var<storage, read> w: array<Stored>; // f32|bf16|f16[R, C]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // f32[T, Y]
@group(1) @binding(0) var<uniform> args: Args;

alias W = array<Stored, 4>;

fn w_fetch(r: u32, c: u32) -> W {
  let i = min(vec4(r, r + 1u, r + 2u, r + 3u), vec4(args.R - 1u)) * (args.C / 4u) + c / 4u;
  let inside = c < args.C;
  return W(
    select(Stored(), w[i.x], inside),
    select(Stored(), w[i.y], inside),
    select(Stored(), w[i.z], inside),
    select(Stored(), w[i.w], inside),
  );
}

fn w_open(block: W) -> mat4x4<f32> {
  return transpose(mat4x4(
    widened(block[0]),
    widened(block[1]),
    widened(block[2]),
    widened(block[3]),
  ));
}
