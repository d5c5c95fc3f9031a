/**
 * What a person types: a command with its arguments, flags and examples, as data. Implementations:
 * commands/, listed in commands/mod.ts; parser.ts makes the parser and the help of it, and cli.ts
 * runs it.
 */
import type { Option, OptionValue } from "../option.ts";
import type { TemporaryFolder } from "../io/temporary.ts";
import type { Reporter } from "../report.ts";

/** A flag of a command: an option's row, and how it is said on a command line. */
export interface Flag extends Option {
  /** It may be given several times; each value is kept. */
  readonly repeat?: boolean;
  /** One letter that says the same. */
  readonly short?: string;
  /** The value may be left out. */
  readonly bare?: boolean;
  /** The value is, or may be, a path of this machine, which is nobody else's business. */
  readonly path?: true;
  /** The value is a file that is written when the work is done. */
  readonly writes?: true;
  /** The heading under which `--help` shows it. */
  readonly group: string;
}

/** One of the words after a command's name. */
export interface Argument {
  readonly name: string;
  readonly help: string;
}

/** A command of `sluice`, as the list of commands shows it. */
export interface CommandRow {
  readonly name: string;
  /** One line for the list. */
  readonly summary: string;
  /** The command with all that it needs, which other commands do not wait for. */
  load(): Promise<Command>;
}

/** What a command takes and does. */
export interface Command {
  readonly arguments: readonly Argument[];
  readonly flags: readonly Flag[];
  /** Whole command lines without the program's name, each with what it does. */
  readonly examples: readonly (readonly [line: string, does: string])[];
  /**
   * It leaves more than what it prints, a checkpoint or a commit, and so it goes on when what it
   * prints can go nowhere.
   */
  readonly leaves?: true;
  /** @throws what the library throws; cli.ts makes a sentence and an exit code of it. */
  run(parsed: ParsedArguments, host: Host): Promise<void>;
}

/** A stream of text that a person or a program reads. */
export interface TextStream {
  /**
   * @throws {ReaderGone} nobody reads it any more.
   * @throws {SpaceError} it leads to a file, and that cannot be written.
   */
  write(text: string): void;
  readonly isTerminal: boolean;
  /** Characters in a line; of use on a terminal only. */
  readonly columns: number;
}

/**
 * All that a command touches of the world beside the checkpoints. cli.ts makes it of Deno, tests of
 * strings.
 */
export interface Host {
  /** Results. */
  readonly out: TextStream;
  /** Progress, warnings and errors. Where they cannot be written, nobody is told. */
  readonly err: TextStream;
  /** Whether colours are wanted on a terminal. */
  readonly colors: boolean;
  /** Aborted when the person wants to stop. */
  readonly signal: AbortSignal;
  /** The version of Sluice. */
  readonly version: string;
  readText(path: string): Promise<string>;
  /**
   * The text of a file that need not be there, or that may not be read.
   *
   * @throws {SpaceError} the system refuses it for another reason.
   */
  readTextIfAny(path: string): Promise<string | undefined>;
  /** Whether there is a person to ask. */
  readonly asks: boolean;
  /** Ask that person a question that is answered by yes or no. */
  confirm(question: string): boolean;
  /** A variable of the environment; undefined when it is not set or may not be read. */
  env(name: string): string | undefined;
  /** @throws {SpaceError} the system refuses it. */
  writeText(path: string, text: string): Promise<void>;
  /**
   * See that `writeText` will be able to, and leave everything as it was.
   *
   * @throws {RequestError} it is a folder, or there is no folder to hold it.
   * @throws {SpaceError} the system refuses it.
   */
  tryWrite(path: string): Promise<void>;
  /**
   * Append to a file, line by line; what was there stays.
   *
   * @throws {SpaceError} the system refuses it.
   */
  openLog(path: string): { write(line: string): void } & Disposable;
  /** A new folder for passing use; removed when disposed of. */
  temporaryFolder(): Promise<TemporaryFolder>;
  /** Remove what killed runs have left of such folders, and report it. */
  sweepTemporary(report: Reporter): Promise<void>;
  /** The most bytes of memory that the process has held so far. */
  residentBytes(): number;
  /** The bytes of memory that it holds now. */
  currentBytes(): number;
  /** Outputs that are not this command's, and that are gone on with when it is done. */
  readonly otherOutputs?: readonly string[];
  /** The bytes of memory that the machine has; undefined where Deno does not let us ask. */
  machineBytes(): number | undefined;
}

/** The words of a command line, checked. */
export interface ParsedArguments {
  /** In the order of `Command.arguments`; each is there. */
  readonly arguments: readonly string[];
  /** Whether the command has such a flag at all. */
  knows(flag: string): boolean;
  /** Whether a flag was given. */
  has(flag: string): boolean;
  /**
   * A flag's value, or its default; `undefined` where it has neither. A flag with `bare` and no
   * value is `true`.
   */
  get(flag: string): OptionValue | undefined;
  /** Every value of a flag with `repeat`. */
  all(flag: string): readonly string[];
}
