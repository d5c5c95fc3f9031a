/**
 * From command rows to a parser with help (commander), and from words to checked values. Reads and
 * prints nothing itself.
 */
import { Command as Parser, CommanderError, Option as ParserOption } from "commander";
import { styleText } from "node:util";
import type { Command, CommandRow, Flag, Host, ParsedArguments } from "./command.ts";
import { quote, RequestError } from "../errors.ts";
import { type OptionValue, parseOption } from "../option.ts";
import { withFlags } from "./option_words.ts";
import { size } from "../size.ts";

/** What words ask for: a command, or nothing more, since help or the version was shown. */
export type ParsedCommand =
  | { readonly command: Command; readonly given: ParsedArguments }
  | undefined;

/**
 * Parse the words after the program's name. Of the commands only those that are among the words are
 * loaded.
 *
 * @throws {RequestError} an unknown command or flag, a missing argument, a value that a flag does
 *   not take, a flag given twice.
 */
export async function parseArguments(
  words: readonly string[],
  commands: readonly CommandRow[],
  host: Pick<Host, "out" | "colors" | "version">,
): Promise<ParsedCommand> {
  let parsed: ParsedCommand;
  const bold = (text: string) =>
    host.colors && host.out.isTerminal ? styleText("bold", text, { validateStream: false }) : text;
  const program = new Parser("sluice")
    .description(
      "Quantize language models a piece at a time, measure them, write checkpoints that load.",
    )
    .version(host.version, "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand("help [command]", "print the help of a command")
    .exitOverride()
    .configureHelp({ styleTitle: bold })
    .configureOutput({
      writeOut: (text) => host.out.write(text),
      // Errors come as exceptions; help after one is not wanted.
      writeErr: () => {},
      getOutHelpWidth: () => host.out.isTerminal ? Math.min(host.out.columns, 110) : 100,
      getOutHasColors: () => host.colors,
    })
    .addHelpText("after", "\nFirst steps:\n  sluice demo\n  sluice quantize sample --output out\n");
  for (const { name, summary, load } of commands) {
    const parser = program.command(name).description(summary);
    if (!words.includes(name)) continue;
    const command = await load();
    for (const { name, help } of command.arguments) parser.argument(`<${name}>`, help);
    for (const flag of command.flags) {
      const knows = (name: string) => command.flags.some((other) => other.name === name);
      for (const option of toParserOptions(flag, knows)) parser.addOption(option);
      refuseFlagAsValue(flag, parser);
      if (!flag.repeat) refuseTwice(flag, parser);
    }
    parser.addHelpOption(
      new ParserOption("-h, --help", "print this help")
        .helpGroup(`${command.flags.at(-1)?.group ?? "Options"}:`),
    );
    const examples = command.examples.map(([line, does]) => `  sluice ${line}\n      ${does}\n`);
    parser.addHelpText("after", `\n${bold("Examples:")}\n${examples.join("")}`);
    parser.action(() => {
      parsed = { command, given: checkWords(command, parser) };
    });
  }
  try {
    await program.parseAsync([...words], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return undefined;
    throw new RequestError(usageSentence(error, words, program), { cause: error });
  }
  return parsed;
}

/** What a flag is to the parser: one option, or two for a boolean, `--x` and `--no-x`. */
function toParserOptions(flag: Flag, knows: (flag: string) => boolean): ParserOption[] {
  const { name, type, help, placeholder = "value", choices, group } = flag;
  const isNumber = type === "number" || type === "integer";
  const value = type === "boolean" ? "" : flag.bare ? ` [${placeholder}]` : ` <${placeholder}>`;
  const notes = [
    ...(choices ? [`${isNumber ? "or" : "one of"} ${choices.join(", ")}`] : []),
    ...(flag.default === undefined || flag.default === false ? [] : [
      `default ${
        flag.type === "bytes" ? size(Number(parseOption(flag, flag.default))) : flag.default
      }`,
    ]),
    ...(flag.repeat ? ["may be repeated"] : []),
  ];
  const meaning = withFlags(help, knows);
  const text = notes.length > 0 ? `${meaning} (${notes.join("; ")})` : meaning;
  const short = flag.short ? `-${flag.short}, ` : "";
  const option = new ParserOption(`${short}--${name}${value}`, text).helpGroup(`${group}:`);
  if (flag.repeat) option.argParser((word, before: string[] = []) => [...before, word]);
  if (type !== "boolean") return [option];
  return [option, new ParserOption(`--no-${name}`).hideHelp()];
}

/** The parser would take the next flag for the value, and find fault with what comes after it. */
function refuseFlagAsValue({ name }: Flag, parser: Parser): void {
  parser.on(`option:${name}`, (value: unknown) => {
    if (typeof value !== "string" || !value.startsWith("--")) return;
    throw new RequestError(`Cannot use --${name}: it has no value, ${quote(value)} comes next.`);
  });
}

/** The parser would take the last one, and say nothing. */
function refuseTwice({ name, type }: Flag, parser: Parser): void {
  let first: string | undefined;
  const given = (flag: string) => (value: unknown) => {
    const word = typeof value === "string" ? `${flag} ${value}` : flag;
    if (first !== undefined) {
      throw new RequestError(
        first === word
          ? `Cannot use ${word} twice: say it once.`
          : `Cannot use ${first} and ${word} together: say one of them.`,
      );
    }
    first = word;
  };
  parser.on(`option:${name}`, given(`--${name}`));
  if (type === "boolean") parser.on(`option:no-${name}`, given(`--no-${name}`));
}

function checkWords(command: Command, parser: Parser): ParsedArguments {
  const given = parser.opts<Record<string, unknown>>();
  const values = new Map<string, OptionValue>();
  const lists = new Map<string, readonly string[]>();
  for (const flag of command.flags) {
    const value = given[new ParserOption(`--${flag.name}`).attributeName()];
    if (value === undefined) continue;
    if (flag.repeat) {
      lists.set(
        flag.name,
        (value as string[]).map((one) => String(parseOption(flag, one))),
      );
    } else values.set(flag.name, flag.bare && value === true ? true : parseOption(flag, value));
  }
  const row = (name: string): Flag => {
    const flag = command.flags.find((candidate) => candidate.name === name);
    if (!flag) throw new TypeError(`The command ${parser.name()} has no flag --${name}`);
    return flag;
  };
  return {
    arguments: parser.processedArgs.map(String),
    knows: (name) => command.flags.some((flag) => flag.name === name),
    has: (name) => values.has(row(name).name) || lists.has(name),
    get(name) {
      const flag = row(name);
      const value = values.get(name) ?? flag.default;
      return value === undefined ? undefined : value === true ? true : parseOption(flag, value);
    },
    all: (name) => lists.get(row(name).name) ?? [],
  };
}

/** commander's complaint as a sentence that says what to do. */
function usageSentence(error: CommanderError, words: readonly string[], program: Parser): string {
  const name = words.find((word) => program.commands.some((command) => command.name() === word));
  const help = name === undefined ? "sluice --help" : `sluice ${name} --help`;
  if (error.code === "commander.help") {
    return `Say what to do: ${
      program.commands.map((command) => command.name()).join(", ")
    }. See ${help}.`;
  }
  const [complaint, hint] = error.message.replace(/^error: /, "").split("\n");
  const sentence = `${complaint!.charAt(0).toUpperCase()}${complaint!.slice(1)}`.replace(/\.$/, "");
  return `${sentence}.${hint ? ` ${hint.replace(/^\((.*)\)$/, "$1")}` : ""} See ${help}.`;
}
