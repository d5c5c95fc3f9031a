/** The commands. To add one: a file here and a row below. */
import type { Command } from "../command.ts";
import { demoCommand } from "./demo.ts";
import { devicesCommand } from "./devices.ts";
import { evaluateCommand } from "./evaluate.ts";
import { inspectCommand } from "./inspect.ts";
import { planCommand } from "./plan.ts";
import { publishCommand } from "./publish.ts";
import { quantizeCommand } from "./quantize.ts";
import { verifyCommand } from "./verify.ts";

/** Every command, in the order `sluice --help` shows them. */
export const COMMANDS: readonly Command[] = [
  quantizeCommand,
  planCommand,
  evaluateCommand,
  inspectCommand,
  verifyCommand,
  publishCommand,
  devicesCommand,
  demoCommand,
];
