// What follows GPTQ: coordinate descent on a block of columns, and scales refitted with codes held.
import { claim, dim, rowsPerItem, scalarF, scalarU, scratch, tensor } from "./call";
import { factors4, nearest4, ROWS, setFactors, setGrid } from "./gptq";
import { roundScale, smallestScale } from "./quantize";

// Thread-private: byte offsets of the four rows at work in a matrix with lines of C floats; the
// last row again where there are fewer.
let r0: usize = 0, r1: usize = 0, r2: usize = 0, r3: usize = 0;

function setRows(r: i32, R: i32, C: i32): void {
  const line = <usize>C << 2;
  r0 = <usize>r * line, r1 = <usize>min(r + 1, R - 1) * line;
  r2 = <usize>min(r + 2, R - 1) * line, r3 = <usize>min(r + 3, R - 1) * line;
}

@inline
function gatherRows(p: usize): v128 {
  let v = v128.load32_zero(p + r0);
  v = v128.load32_lane(p + r1, v, 1);
  v = v128.load32_lane(p + r2, v, 2);
  return v128.load32_lane(p + r3, v, 3);
}

@inline
function scatterRows(p: usize, v: v128): void {
  v128.store32_lane(p + r0, v, 0);
  v128.store32_lane(p + r1, v, 1);
  v128.store32_lane(p + r2, v, 2);
  v128.store32_lane(p + r3, v, 3);
}

/**
 * A lane has a row. A move is kept as a vector of four rows in scratch memory; a column adds up
 * what those before it did to its slope, in four sums whose order does not depend on anything but
 * the column's place.
 */
export function descend_block(thread: i32): void {
  const h = tensor(0), factor = tensor(1), g = tensor(2), scale = tensor(3), zero = tensor(4);
  const w = tensor(5), e = tensor(6), loss = tensor(7), C = dim(1), R = dim(3), K = dim(4),
    B = dim(6), part = R / dim(2);
  const first = scalarU(0), count = scalarU(1), panel = scalarU(2), tileRows = scalarU(3),
    tileColumns = scalarU(4);
  const damp = scalarF(8), moves = scratch(thread), tables = moves + 1024, none = f32x4.splat(0);
  setGrid(scalarU(5), scalarU(6), scalarU(7), tables);
  for (let from = claim() * ROWS; from < R; from = claim() * ROWS) {
    for (let r = from, last = min(R, from + ROWS); r < last; r += 4) {
      const t0 = r / tileRows * B, t1 = min(r + 1, R - 1) / tileRows * B;
      const t2 = min(r + 2, R - 1) / tileRows * B, t3 = min(r + 3, R - 1) / tileRows * B;
      // Slopes lie in lines of K, values and errors in lines of C.
      setRows(r, R, K);
      const g0 = g + r0, g1 = g + r1, g2 = g + r2, g3 = g + r3;
      setRows(r, R, C);
      setFactors(factor, r, R, part, C);
      let sum = none;
      for (let i: i32 = 0; i < count; i++) {
        const column = first + i, offset = <usize>column << 2;
        const line = h + (<usize>(<u32>(column - panel) * <u32>C + <u32>first) << 2);
        const bend = load<f32>(line + (<usize>i << 2)) + damp;
        v128.store(moves + (<usize>i << 4), none);
        if (!(bend > 0)) continue;
        const at = <usize>i << 2, error = gatherRows(e + offset);
        let a = v128.load32_zero(g0 + at), b = none, c = b, d = b;
        a = v128.load32_lane(g1 + at, a, 1), a = v128.load32_lane(g2 + at, a, 2),
          a = v128.load32_lane(g3 + at, a, 3);
        a = f32x4.add(a, f32x4.mul(f32x4.splat(damp), error));
        let k: i32 = 0;
        for (; k + 4 <= i; k += 4) {
          const u = v128.load(line + (<usize>k << 2)), p = moves + (<usize>k << 4);
          a = f32x4.relaxed_madd(v128.load(p), v128.shuffle<f32>(u, u, 0, 0, 0, 0), a);
          b = f32x4.relaxed_madd(v128.load(p, 16), v128.shuffle<f32>(u, u, 1, 1, 1, 1), b);
          c = f32x4.relaxed_madd(v128.load(p, 32), v128.shuffle<f32>(u, u, 2, 2, 2, 2), c);
          d = f32x4.relaxed_madd(v128.load(p, 48), v128.shuffle<f32>(u, u, 3, 3, 3, 3), d);
        }
        for (; k < i; k++) {
          a = f32x4.relaxed_madd(v128.load(moves + (<usize>k << 4)),
            v128.load32_splat(line + (<usize>k << 2)), a);
        }
        const slope = f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
        const tile = column / tileColumns, before = gatherRows(w + offset);
        const s = f32x4(
          load<f32>(scale + (<usize>(t0 + tile) << 2)),
            load<f32>(scale + (<usize>(t1 + tile) << 2)),
          load<f32>(scale + (<usize>(t2 + tile) << 2)),
            load<f32>(scale + (<usize>(t3 + tile) << 2)),
        );
        const z = f32x4.convert_i32x4_s(i32x4(
          load<i8>(zero + <usize>(t0 + tile)), load<i8>(zero + <usize>(t1 + tile)),
          load<i8>(zero + <usize>(t2 + tile)), load<i8>(zero + <usize>(t3 + tile)),
        ));
        const target = f32x4.sub(before, f32x4.div(slope, f32x4.splat(bend)));
        const by = factors4(offset), value = f32x4.div(nearest4(f32x4.mul(target, by), s, z), by);
        const move = f32x4.sub(value, before);
        const change = f32x4.mul(move, f32x4.add(slope, f32x4.mul(move, f32x4.splat(bend / 2))));
        const lower = f32x4.lt(change, none);
        if (!v128.any_true(lower)) continue;
        v128.store(moves + (<usize>i << 4), v128.and(move, lower));
        scatterRows(w + offset, v128.bitselect(value, before, lower));
        scatterRows(e + offset, f32x4.add(error, v128.and(move, lower)));
        sum = f32x4.add(sum, v128.and(change, lower));
      }
      addLane(loss, r, f32x4.extract_lane(sum, 0));
      if (r + 1 < R) addLane(loss, r + 1, f32x4.extract_lane(sum, 1));
      if (r + 2 < R) addLane(loss, r + 2, f32x4.extract_lane(sum, 2));
      if (r + 3 < R) addLane(loss, r + 3, f32x4.extract_lane(sum, 3));
    }
  }
}

@inline
function addLane(base: usize, r: i32, value: f32): void {
  const p = base + (<usize>r << 2);
  store<f32>(p, load<f32>(p) + value);
}

/**
 * A row's scale of a group, where the loss of its values is least with codes held; sums are f64.
 */
export function refit_scales(thread: i32): void {
  const factor = tensor(0), g = tensor(1), m = tensor(2), w = tensor(3), e = tensor(4),
    scale = tensor(5), loss = tensor(6);
  const C = dim(1), R = dim(2), K = dim(3), B = dim(4), part = R / dim(0), first = scalarU(0),
    count = scalarU(1), tile = scalarU(2);
  const type = scalarU(3), damp: f64 = scalarF(4), step = rowsPerItem(count);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      const values = w + (<usize>(<u32>r * <u32>C + <u32>first) << 2), errors = e + (values - w);
      const slopes = g + (<usize>(<u32>r * <u32>K) << 2), bends = m + (slopes - g),
        place = scale + (<usize>(r * B + tile) << 2),
        factors = factor + (<usize>(r / part * C + first) << 2);
      let slope: f64 = 0, bend: f64 = 0;
      for (let i: i32 = 0; i < count; i++) {
        const at = <usize>i << 2, size: f64 = load<f32>(values + at);
        slope += size * (load<f32>(slopes + at) + damp * load<f32>(errors + at));
        bend += size * (load<f32>(bends + at) + damp * size);
      }
      if (!(bend > 0)) continue;
      const before = load<f32>(place), wanted = <f32>(<f64>before - <f64>before * (slope / bend));
      const after = copysign<f32>(roundScale(abs<f32>(wanted), type), wanted);
      const part = (<f64>after - before) / before, change = part * (slope + part * bend / 2);
      const usable = abs<f32>(after) < Infinity && (after > 0) == (before > 0) &&
        abs<f32>(after) >= smallestScale(type);
      if (!usable || !(change < 0)) continue;
      for (let i: i32 = 0; i < count; i++) {
        const at = <usize>i << 2, was = load<f32>(values + at), by = load<f32>(factors + at),
          value = nearest<f32>(was * by / before) * after / by;
        store<f32>(errors + at, load<f32>(errors + at) + (value - was));
        store<f32>(values + at, value);
      }
      store<f32>(place, after);
      addLane(loss, r, <f32>change);
    }
  }
}
