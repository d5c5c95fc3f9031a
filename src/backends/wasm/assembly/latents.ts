// Training of codes: latents at the start, and steps of them and of their scales.
import { CHUNK, claim, claimChunk, dim, rowsPerItem, scalarF, scalarU, tensor } from "./call";
import { roundScale, smallestScale } from "./quantize";

/** Where in the cells of their codes weights lie, in units of their scale. */
export function start_latents(thread: i32): void {
  const w = tensor(0), codes = tensor(1), scale = tensor(2), zero = tensor(3), u = tensor(4);
  const R = dim(0), C = dim(1), B = dim(3), bits = scalarU(0), grid = scalarU(1),
    tileRows = scalarU(2), tileColumns = scalarU(3), step = rowsPerItem(C);
  const high: i32 = (1 << (bits - 1)) - 1, low: i32 = grid == 1 ? -high : -high - 1;
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r / tileRows * B; first < C; first += tileColumns, tile++) {
        const s = load<f32>(scale + (<usize>tile << 2)), z = <i32>load<i8>(zero + <usize>tile);
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c);
          const code = <i32>load<i8>(codes + at), level = <f32>(code - z);
          const rest = load<f32>(w + (at << 2)) / s - level, far = abs<f32>(rest);
          const apart: f32 = code == (rest > 0 ? high : low)
            ? min<f32>(far, 0.5)
            : max<f32>(0, min<f32>(far, 0.98 - far));
          store<f32>(u + (at << 2), level + copysign<f32>(apart, rest));
        }
      }
    }
  }
}

/** The direction of a step, by the running means of the gradient and of its square. */
export function adam(thread: i32): void {
  const g = tensor(0), m = tensor(1), v = tensor(2), n = dim(0);
  const keepM = f32x4.splat(scalarF(0)), keepV = f32x4.splat(scalarF(1)),
    gainM = f32x4.splat(scalarF(2)), gainV = f32x4.splat(scalarF(3)), one = f32x4.splat(1),
    none = f32x4.splat(0);
  const takeM = f32x4.sub(one, keepM), takeV = f32x4.sub(one, keepV);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 16) {
      const slope = v128.load(g + at);
      const mean = f32x4.add(f32x4.mul(keepM, v128.load(m + at)), f32x4.mul(takeM, slope));
      const square = f32x4.add(
        f32x4.mul(keepV, v128.load(v + at)),
        f32x4.mul(f32x4.mul(takeV, slope), slope),
      );
      v128.store(m + at, mean);
      v128.store(v + at, square);
      const way = f32x4.div(f32x4.mul(mean, gainM), f32x4.sqrt(f32x4.mul(square, gainV)));
      v128.store(g + at, v128.and(way, f32x4.gt(square, none)));
    }
  }
}

/** slope = Σ g·(codes − zero) of each tile, which lies within a row; sums are f64. */
export function scale_slopes(thread: i32): void {
  const g = tensor(0), codes = tensor(1), zero = tensor(2), slope = tensor(3);
  const R = dim(0), C = dim(1), B = dim(3), tileColumns = scalarU(1), step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r * B; first < C; first += tileColumns, tile++) {
        const z = <i32>load<i8>(zero + <usize>tile);
        let sum: f64 = 0;
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c);
          sum += <f64>load<f32>(g + (at << 2)) * <f64>(<i32>load<i8>(codes + at) - z);
        }
        store<f32>(slope + (<usize>tile << 2), <f32>sum);
      }
    }
  }
}

/** slope = −scale·Σ g of a tile's clipped weights; it lies within a row, and sums are f64. */
export function zero_slopes(thread: i32): void {
  const g = tensor(0), u = tensor(1), scale = tensor(2), zero = tensor(3), slope = tensor(4);
  const R = dim(0), C = dim(1), B = dim(3), bits = scalarU(0), grid = scalarU(1),
    tileColumns = scalarU(3), step = rowsPerItem(C);
  const low = lowEnd(bits, grid), high = highEnd(bits);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r * B; first < C; first += tileColumns, tile++) {
        const z = <f32>load<i8>(zero + <usize>tile), least = low - z, most = high - z;
        let sum: f64 = 0;
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c) << 2, latent = load<f32>(u + at);
          if (latent <= least || latent >= most) sum += <f64>load<f32>(g + at);
        }
        const at = <usize>tile << 2;
        store<f32>(slope + at, <f32>(-<f64>load<f32>(scale + at) * sum));
      }
    }
  }
}

/** Where latents end, beside a zero point: half a step beyond their codes. */
@inline
function lowEnd(bits: u32, grid: u32): f32 {
  return (grid == 1 ? <f32>0.5 : <f32>-0.5) - <f32>(1 << (bits - 1));
}

@inline
function highEnd(bits: u32): f32 {
  return <f32>(1 << (bits - 1)) - 0.5;
}

/** A step of latents, kept where their codes are not clipped by more than half a step. */
export function step_latents(thread: i32): void {
  const d = tensor(0), scale = tensor(1), zero = tensor(2), u = tensor(3);
  const R = dim(0), C = dim(1), B = dim(3), bits = scalarU(0), grid = scalarU(1),
    tileRows = scalarU(2), tileColumns = scalarU(3), rate = scalarF(4), step = rowsPerItem(C);
  const low = lowEnd(bits, grid), high = highEnd(bits);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r / tileRows * B; first < C; first += tileColumns, tile++) {
        const s = load<f32>(scale + (<usize>tile << 2)), z = <f32>load<i8>(zero + <usize>tile);
        const way: f32 = s > 0 ? rate : s < 0 ? -rate : 0;
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c) << 2;
          const moved = load<f32>(u + at) - way * load<f32>(d + at);
          store<f32>(u + at, min<f32>(max<f32>(moved, low - z), high - z));
        }
      }
    }
  }
}

/** A step of scales, and what is stored of them. */
export function step_scales(thread: i32): void {
  const d = tensor(0), wide = tensor(1), scale = tensor(2), n = dim(0), type = scalarU(0),
    rate = scalarF(1);
  for (let i = claimChunk(); i < n; i = claimChunk()) {
    for (let at = <usize>i << 2, end = <usize>min(n, i + CHUNK) << 2; at < end; at += 4) {
      const before = load<f32>(wide + at);
      const after = before - abs<f32>(before) * rate * load<f32>(d + at);
      store<f32>(wide + at, after);
      const stored = max<f32>(roundScale(abs<f32>(after), type), smallestScale(type));
      store<f32>(scale + at, copysign<f32>(stored, after));
    }
  }
}
