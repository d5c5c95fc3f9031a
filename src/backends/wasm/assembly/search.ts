// The search for scales (src/ops/search_params.ts). A candidate is given up once what has been
// summed shows that it cannot win; so the definition's scale is found unless two candidates' errors
// are within 1e-5 of each other.
import { claim, dim, dtype, scalarU, scratch, tensor } from "./call";
import { scaleOf, smallestScale, zeroOf } from "./quantize";
import { canSurvey, startSurvey, surveyTile } from "./search_survey";
import { AFFINE, bestError, bestScale, bestZero, candidate, clippedBy, consider, errorOf, grid,
  hasOpposite, high, highestCode, low, lowestCode, reach, scaleType, setGrid, setImportance,
  setMatrix, setTile, startCandidates, steps, TILE_BYTES } from "./search_tile";

@inline
function codeNear(x: f32): i32 {
  return <i32>min<f32>(max<f32>(x, <f32>lowestCode), <f32>highestCode);
}

/** The zero point of a scale with the least error; the lowest of equally good ones. */
function zeroFor(s: f32): i32 {
  if (grid != AFFINE) return 0;
  // From that with which nothing is clipped above to that with which nothing is clipped below.
  let to = codeNear(<f32>lowestCode - nearest<f32>(min<f32>(0, low) / s));
  let from = min(to, codeNear(<f32>highestCode - nearest<f32>(max<f32>(0, high) / s)));
  while (from < to) {
    const middle = (from + to) >> 1, here = errorOf(s, middle, Infinity);
    if (errorOf(s, middle + 1, here) < here) from = middle + 1;
    else to = middle;
  }
  return to;
}

/** Consider a scale with its best zero point and, where signs make a difference, its opposite. */
function considerBoth(s: f32, z: i32): void {
  consider(s, z);
  if (hasOpposite(s)) consider(-s, z);
}

function searchTile(): void {
  let last: f32 = 0;
  for (let k: i32 = 0; last != smallestScale(scaleType); k++) {
    const s = candidate(k);
    if (s == last) continue;
    const z = zeroFor(s);
    if (clippedBy(s, z) >= bestError) break;
    considerBoth(s, z);
    last = s;
  }
  last = candidate(0);
  for (let k: i32 = -1; k >= -steps - 16; k--) {
    const s = candidate(k);
    if (s == last || !(s < Infinity)) continue;
    considerBoth(s, zeroFor(s));
    last = s;
  }
}

export function search_params(thread: i32): void {
  const scale = tensor(2), zero = tensor(3), R = dim(0), C = dim(1), part = R / dim(2), A = dim(3),
    B = dim(4);
  const bits = scalarU(0), rows = scalarU(2), columns = scalarU(3), squares = scalarU(5) == 1;
  const memory = scratch(thread);
  setMatrix(tensor(0), dtype(0), C, memory);
  setGrid(scalarU(1), bits, scalarU(4), squares, scalarU(6) != 0);
  const surveyed = canSurvey();
  if (surveyed) startSurvey(memory + TILE_BYTES);
  for (let tile = claim(); tile < A * B; tile = claim()) {
    const r = tile / B * rows, c = tile % B * columns;
    setImportance(tensor(1) + (<usize>(r / part * C) << 2));
    setTile(r, c, min(rows, R - r), min(columns, C - c));
    const s = scaleOf(low, high, bits, grid, scaleType), z = zeroOf(low, s, bits, grid);
    startCandidates(s, z);
    if (s < Infinity && reach > 0 && !(surveyed && surveyTile(s))) {
      startCandidates(s, z);
      searchTile();
    }
    store<f32>(scale + (<usize>tile << 2), bestScale);
    store<i8>(zero + <usize>tile, <i8>bestZero);
  }
}
