// attention for heads whose dimensions 4 divides: as attention.wgsl, with loads of vectors of four
// and loops written out (src/ops/unroll.ts). One workgroup 32 queries of one head and PART of its
// dimensions, 32 keys at a time. A lane computes the scores of 4 queries and 4 keys, then the sums
// of the same 4 queries and PART / 8 dimensions.

struct Args {
  T: u32,
  Q: u32,
  K: u32,
  B: u32,
  S: u32,
  head_dim: u32,
  window: u32,
  scale: f32,
  cap: f32,
  biased: u32,
  length: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>; // f32[T, Q]
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>; // f32[T, K]
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>; // f32[T, K]
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>; // f32[T, Q]

const BLOCK = 32u; // queries, and keys
const DEPTH = 16u; // dimensions of q and k in workgroup memory at a time
const PART_FOURS = PART / 4u;
const AT_A_TIME = 256u / PART_FOURS; // keys whose values are in workgroup memory at a time
const KEYS = 128u; // where the keys' part of `tile` begins
// First q and k as [DEPTH][8 fours], then v as [AT_A_TIME][PART_FOURS]. Small, so that many
// workgroups fit on a multiprocessor. In all three arrays fours are stored in another order from
// one group of rows to the next, so that lanes that store at one time use different banks.
var<workgroup> tile: array<vec4<f32>, 256>;
var<workgroup> weights: array<array<vec4<f32>, 8>, BLOCK>; // [key][fours of queries]
var<workgroup> maxima: array<array<vec4<f32>, 8>, 8>; // [lanes of a query][fours of queries]

// Where in q, k or v vector `at` of a row begins, for four rows from i on.
fn places(i: u32, at: u32, pitch: u32) -> vec4<u32> {
  let rows = min(vec4(i, i + 1u, i + 2u, i + 3u), vec4(args.length - 1u));
  return (vec4(origin) + rows) * (pitch / 4u) + at;
}

// Four dimensions of a value from the vector `at` of its head on; those outside are 0.
fn v_at(j: u32, head: u32, at: u32) -> vec4<f32> {
  let inside = j < args.length && at * 4u < args.head_dim;
  let row = origin + min(j, args.length - 1u);
  return select(vec4<f32>(), v[row * (args.K / 4u) + head / 4u + at], inside);
}

fn put(i: u32, head: u32, at: u32, values: vec4<f32>) {
  if i >= args.length || at * 4u >= args.head_dim { return; }
  o[(origin + i) * (args.Q / 4u) + head / 4u + at] = values;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = enter(group.x, BLOCK);
  let q_head = group.y * args.head_dim;
  let k_head = group.y / (args.Q / args.K) * args.head_dim;
  let part = group.z * PART_FOURS;
  let end = min(args.length, first + BLOCK);
  let begin = select(0u, first + 1u - min(args.window, first + 1u), args.window > 0u);
  let ty = lane / 8u;
  let tx = lane % 8u;
  let query = first + ty * 4u;
  // What this lane loads: four queries, or in the upper half four keys, at four dimensions.
  let four = lane % 32u / 4u;
  let column = lane % 4u;
  let row = lane / 32u * KEYS + column * 32u + (four ^ (column * 2u));

  var most = vec4(-LARGEST);
  var total = vec4(0.0); // of this lane's keys; the 8 lanes of a query are added at the end
#repeat i 4
#repeat j FOURS
  var o$i_$j = vec4<f32>();
#end
#end
  for (var start = begin; start < end; start += BLOCK) {
    // Scores: a vector is one key's, over four queries.
#repeat n 4
    var s$n = vec4<f32>();
#end
    for (var depth = 0u; depth < args.head_dim; depth += DEPTH) {
      let at = depth / 4u + column;
      var block: mat4x4<f32>;
      if lane < 32u {
        let i = places(first + four * 4u, q_head / 4u + at, args.Q);
        block = mat4x4(q[i.x], q[i.y], q[i.z], q[i.w]);
      } else {
        let i = places(start + four * 4u, k_head / 4u + at, args.K);
        block = mat4x4(k[i.x], k[i.y], k[i.z], k[i.w]);
      }
      let turned = transpose(block);
      let inside = at * 4u < args.head_dim;
      workgroupBarrier();
#repeat n 4
      tile[row + $nu * 8u] = select(vec4<f32>(), turned[$n], inside);
#end
      workgroupBarrier();
#repeat n 16
      {
        let a = tile[$nu * 8u + (ty ^ ($nu / 4u * 2u))];
        let b = tile[KEYS + $nu * 8u + (tx ^ ($nu / 4u * 2u))];
        s0 += a * b.x;
        s1 += a * b.y;
        s2 += a * b.z;
        s3 += a * b.w;
      }
#end
    }

    let key = start + tx * 4u;
#repeat n 4
    let seen$n = sees(query, key + $nu);
    s$n = select(vec4(-LARGEST), score(s$n, group.y, key + $nu), seen$n);
#end
    maxima[tx][ty ^ tx] = max(max(s0, s1), max(s2, s3));
    workgroupBarrier();
    let before = most;
#repeat n 8
    most = max(most, maxima[$n][ty ^ $nu]);
#end
    let fade = exp(before - most);
#repeat n 4
    s$n = select(vec4<f32>(), exp(s$n - most), seen$n);
    weights[tx * 4u + $nu][ty ^ tx] = s$n;
#end
    total = total * fade + ((s0 + s1) + (s2 + s3));
#repeat i 4
#repeat j FOURS
    o$i_$j *= fade[$i];
#end
#end
#repeat p FOURS
    {
      let from_key = $pu * AT_A_TIME;
      if from_key > 0u { workgroupBarrier(); }
#repeat n 4
      {
        let n = lane + $nu * 64u;
        tile[n] = v_at(start + from_key + n / PART_FOURS, k_head, part + n % PART_FOURS);
      }
#end
      workgroupBarrier();
#repeat n KEYS
      {
        let weight = weights[from_key + $nu][ty ^ ((from_key + $nu) / 4u)];
#repeat j FOURS
        let v$j = tile[$nu * PART_FOURS + $ju * 8u + tx];
        o0_$j += weight.x * v$j;
        o1_$j += weight.y * v$j;
        o2_$j += weight.z * v$j;
        o3_$j += weight.w * v$j;
#end
      }
#end
    }
#end
  }

  workgroupBarrier();
  maxima[tx][ty ^ tx] = total;
  workgroupBarrier();
  total = vec4<f32>();
#repeat n 8
  total += maxima[$n][ty ^ $nu];
#end
#repeat i 4
#repeat j FOURS
  put(query + $iu, q_head, part + $ju * 8u + tx, o$i_$j / total[$i]);
#end
#end
}
