/** `sluice work`: do some of a plan that machines share. */
import { RequestError } from "../../errors.ts";
import { work } from "../../run/worker.ts";
import type { Command } from "../command.ts";
import { RunStays } from "../faults.ts";
import { jsonLine } from "../json.ts";
import { plural } from "../text.ts";
import { beginViews, MESSAGE_FLAGS } from "./messages.ts";
import { MEETING_PLACE, openPlace } from "./meeting.ts";
import { openJob, OWN_FLAGS } from "./shared_job.ts";

/** `sluice work FOLDER` */
export const workCommand: Command = {
  arguments: [MEETING_PLACE],
  flags: [
    {
      name: "worker-index",
      type: "string",
      placeholder: "I/N",
      help:
        "which worker of how many this is, from 0: it begins with its share, then does what nobody is at",
      default: "0/1",
      group: "Sharing",
    },
    ...OWN_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["work shared", "do all that nobody else is at"],
    ["work shared --worker-index 2/4", "the third of four; any of them may come late, or die"],
    ["work hf://me/job --worker-index 2/4", "the same for machines that share a repository alone"],
  ],
  leaves: true,
  async run(parsed, host) {
    const [index, count] = share(String(parsed.get("worker-index")));
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    const { report } = views;
    const [word] = parsed.arguments as [string];
    const folder = await openPlace(word, { host, report, stack, writes: true });
    const { plan, source, backend, inputs } = await openJob(folder, {
      parsed,
      host,
      report,
      stack,
    });
    const working = work(plan, {
      folder,
      index,
      count,
      source,
      backend,
      report,
      signal: host.signal,
      residentBytes: host.residentBytes,
      currentBytes: host.currentBytes,
      ...inputs,
    });
    const of = plan.units.length;
    const { did, left } = await working.catch(async (cause) => {
      if (!host.signal.aborted) throw cause;
      const open = await folder.undone();
      throw new RunStays({ units: of - open.length, of, cause });
    });
    if (parsed.get("json")) host.out.write(jsonLine({ type: "result", did, left, of }));
    else if (!parsed.get("quiet")) {
      host.out.write(
        `did ${did.length} of ${plural(of, "unit")}; ${
          left.length === 0
            ? `all are done: sluice merge ${word} --output FOLDER`
            : `others are at ${left.length}`
        }\n`,
      );
    }
  },
};

/** @throws {RequestError} it is no share. */
function share(text: string): [index: number, count: number] {
  const [, index, count] = /^(\d{1,5})\/(\d{1,5})$/.exec(text) ?? [];
  if (index === undefined || Number(index) >= Number(count)) {
    throw new RequestError(
      `Cannot use --worker-index ${JSON.stringify(text)}: give the worker's number, from 0, and ` +
        "how many there are, as 0/4.",
    );
  }
  return [Number(index), Number(count)];
}
