// Products by a BLAS of the host, which it calls on this memory (../blas.ts). C is cut into tiles
// that depend on the sizes alone, each of them one call, or one for every panel of weights that are
// widened first: an element does not depend on how work was divided among threads.
import { ceilDiv, claim, scratch } from "./call";

/**
 * The word of the control block with the multiply-adds a product must have; 0: there is no BLAS.
 */
const LEAST: usize = 96;

/** Rows and columns of C in a tile, halved where there would be too few for several threads. */
const TILE_M: i32 = 512;
const TILE_N: i32 = 256;
const FEW_TILES: i32 = 8;
const LEAST_TILE: i32 = 64;
/** k of a panel that is widened: with `TILE_N` rows 768 KiB, most of a thread's scratch memory. */
export const WIDE: i32 = 768;

/** What cblas.h calls these. */
const ROW_MAJOR: i32 = 101, NO_TRANS: i32 = 111, TRANS: i32 = 112;

// @ts-ignore: a decorator of AssemblyScript's
@external("env", "sgemm")
declare function cblasSgemm(order: i32, transA: i32, transB: i32, m: i32, n: i32, k: i32,
  alpha: f32, a: usize, lda: i32, b: usize, ldb: i32, beta: f32, c: usize, ldc: i32): void;

/**
 * c[m, n] = alpha · Σ a[m, k] · b[n, k] + beta · c; element k of a turned operand's row r is at
 * k · stride + r.
 */
@inline
export function sgemm(aTurned: bool, bTurned: bool, m: i32, n: i32, k: i32, alpha: f32, a: usize,
  aStride: i32, b: usize, bStride: i32, beta: f32, c: usize, cStride: i32): void {
  cblasSgemm(ROW_MAJOR, aTurned ? TRANS : NO_TRANS, bTurned ? NO_TRANS : TRANS, m, n, k, alpha, a,
    aStride, b, bStride, beta, c, cStride);
}

/** Whether there is a BLAS. */
@inline
export function hasBlas(): bool {
  return load<u32>(LEAST) != 0;
}

/** Whether a product of this size is the BLAS's. */
@inline
export function isForBlas(M: i32, N: i32, K: i32): bool {
  const least = load<u32>(LEAST);
  return least != 0 && <i64>M * <i64>N * <i64>K >= <i64>least;
}

// Thread-private: the tiles of the product that is being computed.
let tileM: i32 = 0, tileN: i32 = 0, tilesN: i32 = 0, tiles: i32 = 0;
/** The tile that `nextTile` found. */
export let m0: i32 = 0, m1: i32 = 0, n0: i32 = 0, n1: i32 = 0;

/** Cut C[M, N] into tiles. */
export function cutTiles(M: i32, N: i32): void {
  tileM = TILE_M, tileN = TILE_N;
  while (ceilDiv(M, tileM) * ceilDiv(N, tileN) < FEW_TILES && tileM + tileN > 2 * LEAST_TILE) {
    if (tileM > tileN) tileM >>= 1;
    else tileN >>= 1;
  }
  tilesN = ceilDiv(N, tileN);
  tiles = ceilDiv(M, tileM) * tilesN;
}

/** Whether there is another tile to be computed by this thread. */
export function nextTile(M: i32, N: i32): bool {
  const tile = claim();
  if (tile >= tiles) return false;
  m0 = tile / tilesN * tileM, m1 = min(M, m0 + tileM);
  n0 = tile % tilesN * tileN, n1 = min(N, n0 + tileN);
  return true;
}

/** Where the rows of a tile's weights are widened to. */
@inline
export function widePanel(thread: i32): usize {
  return scratch(thread);
}
