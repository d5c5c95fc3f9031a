// Training of codes: latents at the start, and a step of them and of their scales.
import { claim, dim, rowsPerItem, scalarF, scalarU, tensor } from "./call";
import { roundScale, smallestScale } from "./quantize";

/** Where in the cells of their codes weights lie, in units of their scale. */
export function start_latents(thread: i32): void {
  const w = tensor(0), codes = tensor(1), scale = tensor(2), zero = tensor(3), u = tensor(4);
  const R = dim(0), C = dim(1), B = dim(3), tileRows = scalarU(0), tileColumns = scalarU(1),
    step = rowsPerItem(C);
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r / tileRows * B; first < C; first += tileColumns, tile++) {
        const s = load<f32>(scale + (<usize>tile << 2)), z = <i32>load<i8>(zero + <usize>tile);
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c);
          const level = <f32>(<i32>load<i8>(codes + at) - z);
          const rest = load<f32>(w + (at << 2)) / s - level, far = abs<f32>(rest);
          const apart = max<f32>(0, min<f32>(far, 0.98 - far));
          store<f32>(u + (at << 2), level + copysign<f32>(apart, rest));
        }
      }
    }
  }
}

@inline
function signOf(x: f32): f32 {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

/** A step by the signs of gradients; sums are f64. */
export function step_latents(thread: i32): void {
  const g = tensor(0), codes = tensor(1), zero = tensor(2), u = tensor(3), wide = tensor(4),
    scale = tensor(5);
  const R = dim(0), C = dim(1), B = dim(3), bits = scalarU(0), grid = scalarU(1),
    tileColumns = scalarU(3), type = scalarU(4);
  const rate = scalarF(5), scaleRate = scalarF(6), half: i32 = 1 << (bits - 1);
  const step = rowsPerItem(C);
  const low: f32 = (grid == 1 ? <f32>0.5 : <f32>-0.5) - <f32>half, high: f32 = <f32>half - 0.5;
  for (let from = claim() * step; from < R; from = claim() * step) {
    for (let r = from, last = min(R, from + step); r < last; r++) {
      for (let first: i32 = 0, tile = r * B; first < C; first += tileColumns, tile++) {
        const place = <usize>tile << 2, z: f32 = <f32>load<i8>(zero + <usize>tile),
          before = load<f32>(wide + place), turn = signOf(before);
        let slope: f64 = 0;
        for (let c = first, end = min(C, first + tileColumns); c < end; c++) {
          const at = <usize>(<u32>r * <u32>C + <u32>c), p = u + (at << 2);
          const gradient = load<f32>(g + (at << 2));
          slope += <f64>gradient * <f64>(<f32>load<i8>(codes + at) - z);
          const moved = load<f32>(p) - rate * signOf(gradient) * turn;
          store<f32>(p, min<f32>(max<f32>(moved, low - z), high - z));
        }
        const way: f32 = slope > 0 ? turn : slope < 0 ? -turn : 0;
        const after = before - before * scaleRate * way;
        store<f32>(wide + place, after);
        const stored = max<f32>(roundScale(abs<f32>(after), type), smallestScale(type));
        store<f32>(scale + place, copysign<f32>(stored, after));
      }
    }
  }
}
