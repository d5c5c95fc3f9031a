/** `sluice verify`: reads back what was written, and compares it with what it was made of. */
import type { Backend } from "../../backend.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { CheckpointError, quote, RequestError } from "../../errors.ts";
import { RECORD_FILE } from "../../io/names.ts";
import { modelToEvaluate } from "../../plan/model.ts";
import type { Reporter } from "../../report.ts";
import { limitSentence } from "../../report/certificate.ts";
import type { Certificate } from "../../report/record.ts";
import type { TensorSource } from "../../source.ts";
import { openCheckpoint } from "../../sources/checkpoint.ts";
import { jsonLine, recordDocument, tensorDocument } from "../json.ts";
import { certificateRows, showVerification } from "../result_view.ts";
import { pairs } from "../table.ts";
import { verify, type VerifyReport } from "../../verify.ts";
import { corpusSentence, DEVICE_FLAGS, openDevice, STATES_FLAG, withSpill } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { hubClient, openModel } from "./model.ts";
import { withRoom } from "./room.ts";

/** `sluice verify OUT` */
export const verifyCommand: Command = {
  arguments: [{ name: "checkpoint", help: "the folder or file to verify" }],
  flags: [
    {
      name: "source",
      type: "string",
      placeholder: "original",
      help: "what it was made of: every value is compared, copied tensors byte for byte",
      group: "Measuring",
    },
    {
      name: "certificate",
      type: "boolean",
      help: "measure again what its certificate promises, against the original (--source, or the " +
        "commit of the Hub that it was made of), and fail if that does not hold",
      default: false,
      group: "Measuring",
    },
    {
      name: "corpus",
      type: "string",
      placeholder: "file",
      path: true,
      help: "the text of the certificate, where that is a file",
      group: "Measuring",
    },
    STATES_FLAG,
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["verify SmolLM2-int4", "structure and scales"],
    ["verify SmolLM2-int4 --source ./SmolLM2-135M", "and the error of each weight"],
    [
      "verify SmolLM2-kl --source ./SmolLM2-135M --certificate --corpus held-out.txt",
      "and whether it is as near to the original as its certificate says",
    ],
  ],
  async run(parsed, host) {
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    refuseUncertified(parsed);
    const original = parsed.get("source");
    const source = original === undefined
      ? undefined
      : await openModel(String(original), { parsed, host, report: views.report, stack });
    const backend = stack.use(await openDevice(parsed, views.report));
    const report = await verify(parsed.arguments[0]!, {
      backend,
      report: views.report,
      signal: host.signal,
      ...(source ? { source } : {}),
    });
    const again = parsed.get("certificate")
      ? await measureAgain(report, { parsed, source, backend, host, report: views.report, stack })
      : undefined;
    views[Symbol.dispose]();
    if (parsed.get("json")) {
      host.out.write(jsonLine({
        type: "result",
        ...report,
        quantized: report.quantized.map(tensorDocument),
        record: report.record && recordDocument(report.record),
        certificate: again,
        warnings: shownWarnings(views.warnings, parsed),
      }));
    } else if (!parsed.get("quiet")) {
      host.out.write(showVerification(report, source?.label));
      if (again) host.out.write(`\n${pairs(certificateRows(again, "measured again"))}`);
    }
    if (again) refuseBroken(again, report.label);
  },
};

/** @throws {RequestError} a flag of a certificate's is given, and none is to be measured. */
function refuseUncertified(parsed: ParsedArguments): void {
  const flag = ["corpus", "max-states"].find((name) => parsed.has(name));
  if (flag === undefined || parsed.get("certificate")) return;
  throw new RequestError(`Cannot use --${flag} without --certificate: nothing is measured.`);
}

/**
 * What a checkpoint's certificate promises, measured on the same windows.
 *
 * @throws {RequestError} it has none, or the original or the text is not at hand.
 */
async function measureAgain(
  { record, label }: VerifyReport,
  { source: given, ...opening }: {
    readonly parsed: ParsedArguments;
    readonly source: TensorSource | undefined;
    readonly backend: Backend;
    readonly host: Host;
    readonly report: Reporter;
    readonly stack: AsyncDisposableStack;
  },
): Promise<Certificate> {
  const { parsed, backend, host, report, stack } = opening;
  if (!record?.certificate) {
    throw new RequestError(
      `Cannot measure a certificate of ${quote(label)}: it has none. They are made by quantize ` +
        "with --max-kl or --max-perplexity-increase.",
    );
  }
  const { certificate, model: { id } } = record;
  const reference = given ?? (id === null ? undefined : await openModel(id, opening));
  if (!reference) {
    throw new RequestError(
      "Cannot measure the certificate again: say what the checkpoint was made of, --source.",
    );
  }
  const { certifiedWindows, certifyAgain } = await import("../../certificate.ts");
  const checkpoint = stack.use(await openCheckpoint(parsed.arguments[0]!));
  const corpus = parsed.get("corpus");
  const windows = await certifiedWindows(certificate, checkpoint, {
    ...(corpus === undefined ? {} : { corpus: String(corpus) }),
    ...(certificate.text.corpus === "sample" ? {} : { hub: await hubClient(host) }),
    stateBudget: Number(parsed.get("max-states") ?? Infinity),
    report,
  });
  if (!parsed.get("quiet")) host.err.write(`sluice: measuring ${corpusSentence(windows)}\n`);
  const floatsPerToken = 2 * (await modelToEvaluate(checkpoint)).hiddenSize;
  const placed = await withRoom(windows, { floatsPerToken, backend, host });
  return await certifyAgain(certificate, checkpoint, {
    backend,
    reference,
    evaluation: await withSpill(placed, { floatsPerToken, host, stack }),
    report,
    signal: host.signal,
  });
}

/** @throws {CheckpointError} what was promised is not so. */
function refuseBroken({ holds, limits }: Certificate, label: string): void {
  if (holds) return;
  throw new CheckpointError(
    `Cannot accept the certificate of ${quote(label)}: ${limits.map(limitSentence).join("; ")}.`,
    { file: RECORD_FILE },
  );
}
