/**
 * The file of `--save-sensitivities` while they are measured: what is known so far stands in it, so
 * that the same command goes on, and measures nothing again once it is whole.
 */
import { type LossKeeper, parseSensitivities } from "../../bits/sensitivities.ts";
import { parseObject } from "../../json.ts";
import type { Host } from "../command.ts";
import { visible } from "../text.ts";

/**
 * Keep losses in a file.
 *
 * @param options.model The hash of the model.
 * @param options.tell Takes a line of what was found there.
 */
export function keeperIn(
  file: string,
  { host, model, tell }: {
    readonly host: Host;
    readonly model: string;
    readonly tell: (line: string) => void;
  },
): LossKeeper {
  const read = async () => {
    const text = await host.readTextIfAny(file);
    return text === undefined ? undefined : { text, root: parseObject(text) };
  };
  return {
    async find(of) {
      const found = await read();
      if (found?.root?.measurement !== of) return undefined;
      tell(`${visible(file)} has these sensitivities: they are not measured again`);
      return parseSensitivities(found.text, file, model);
    },
    async load(of) {
      const { unfinished, losses } = (await read())?.root ?? {};
      if (unfinished !== of || !Array.isArray(losses)) return [];
      if (!losses.every((loss) => typeof loss === "number")) return [];
      tell(`going on after ${losses.length} that ${visible(file)} has`);
      return losses;
    },
    save: (of, losses) =>
      host.writeText(file, JSON.stringify({ version: 1, unfinished: of, losses })),
  };
}
