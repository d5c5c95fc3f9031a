// Which keys a query sees and what becomes of a score, for the kernels of attention and of its
// backward pass, which this is put before; they define Args.

@group(0) @binding(3) var<storage, read> bias: array<f32>; // f32[B, S], by head and key
@group(1) @binding(0) var<uniform> args: Args;

var<private> origin: u32; // the first token of the window, from which places count

// Take a workgroup of so many queries to its window; the place of its first query there.
fn enter(group: u32, queries: u32) -> u32 {
  let blocks = (args.length + queries - 1u) / queries;
  origin = group / blocks * args.length;
  return group % blocks * queries;
}

// The scores of four queries and key j, capped and with the bias of the key.
fn score(products: vec4<f32>, head: u32, j: u32) -> vec4<f32> {
  var s = products * args.scale;
  if args.cap != 0.0 {
    for (var n = 0u; n < 4u; n++) { s[n] = soft_cap(s[n], args.cap); }
  }
  if args.biased != 0u { s += vec4(bias[head * args.S + min(j, args.length - 1u)]); }
  return s;
}

// Which of four queries from i on see key j.
fn sees(i: u32, j: u32) -> vec4<bool> {
  let queries = vec4(i, i + 1u, i + 2u, i + 3u);
  // Of a key after its query the difference wraps, and does not count.
  let near = queries - vec4(j) < vec4(args.window);
  return (vec4(j) <= queries) & (near | vec4(args.window == 0u));
}
