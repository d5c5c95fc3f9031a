/** Every suite of faults. */
import { C2 } from "./absent_cases.ts";
import { D1, D2 } from "./disk_cases.ts";
import { D3, D5 } from "./full_cases.ts";
import { G1 } from "./gpu_cases.ts";
import { K3, K4 } from "./kill_cases.ts";
import { M1 } from "./memory_cases.ts";
import { T1 } from "./mix_cases.ts";
import { K1, P1 } from "./power_cases.ts";
import { X1P } from "./rival_cases.ts";
import { X1 } from "./sharing_cases.ts";
import { K5 } from "./signal_cases.ts";
import type { Suite } from "./suite.ts";
import { W1 } from "./weight_cases.ts";
import { G3 } from "./wrong_cases.ts";

/** In the order of the plan of faults. */
export const SUITES: readonly Suite[] = [
  C2,
  D1,
  D2,
  D3,
  D5,
  K1,
  K3,
  K4,
  K5,
  P1,
  X1,
  X1P,
  G1,
  G3,
  W1,
  M1,
  T1,
];
