/** The observers. To add one: a file here and a row below. */
import type { Observer } from "../observer.ts";
import { absmax } from "./absmax.ts";
import { absmean } from "./absmean.ts";
import { gram } from "./gram.ts";
import { histogram } from "./histogram.ts";
import { minMax } from "./min_max.ts";
import { movingAverage } from "./moving_average.ts";
import { tokenSample } from "./token_sample.ts";

/** Every observer. */
export const OBSERVERS: readonly Observer[] = [
  gram,
  absmax,
  absmean,
  minMax,
  movingAverage,
  histogram,
  tokenSample,
];
