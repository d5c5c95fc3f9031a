/** The command that makes a checkpoint, as its record and its journal tell it. */
import type { TensorSource } from "../../source.ts";
import type { Command, ParsedArguments } from "../command.ts";
import { shellWord } from "../text.ts";
import { PLAN_FLAG } from "./flags.ts";
import { MESSAGE_FLAGS } from "./messages.ts";
import { PUBLISH_FLAGS } from "./publish.ts";
import { SETTLED } from "./saved_plan.ts";
import type { Texts } from "./walks.ts";

/** Flags that say where the result goes and what is told of it, and nothing of the result. */
const ASIDE: ReadonlySet<string> = new Set(
  [...PUBLISH_FLAGS, ...MESSAGE_FLAGS].map(({ name }) => name)
    .concat(
      "upload-repo",
      "output",
      "overwrite",
      "resume",
      "restart",
      "metrics",
      "report",
      "timeline",
    )
    .concat("save-recipe", "save-sensitivities"),
);

/**
 * The command that makes the same checkpoint, as others can repeat it: of what is on this machine
 * there are names without folders, or words that stand for them.
 */
export function commandLine(
  { flags }: Pick<Command, "flags">,
  { parsed, source: { id }, texts: { calibration, evaluation } }: {
    readonly parsed: ParsedArguments;
    readonly source: Pick<TensorSource, "id">;
    readonly texts: Texts;
  },
): string {
  const [model] = parsed.arguments as [string];
  const names = new Map([["calibration", calibration?.corpus], ["corpus", evaluation?.corpus]]);
  // Beside a plan, what it has settled is refused.
  const isSettled = (name: string) => parsed.has(PLAN_FLAG.name) && SETTLED.has(name);
  const words = flags
    .filter(({ name }) => parsed.has(name) && !ASIDE.has(name) && !isSettled(name))
    .flatMap(({ name, repeat, path, placeholder = "file" }) =>
      (repeat ? parsed.all(name) : [parsed.get(name)!]).map((value) =>
        value === true
          ? `--${name}`
          : value === false
          ? `--no-${name}`
          : `--${name} ${path ? names.get(name) ?? placeholder : shellWord(String(value))}`
      )
    );
  const named = model === "sample" || /@[0-9a-f]{40}$/.test(id) ? model : "./model";
  return ["sluice quantize", named, ...words, "--output folder"].join(" ");
}
