//! The `mils` command. Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use mils_cli::args::{Cli, Command};
use mils_cli::caption::is_broken_pipe;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Caption(args) => {
            checked("caption", args.check());
            mils_cli::caption::run(&args)
        }
        Command::Generate(args) => {
            checked("generate", args.check());
            mils_cli::generate::run(&args)
        }
        Command::Blend(args) => {
            checked("blend", args.check());
            mils_cli::blend::run(&args)
        }
        Command::Optimize(args) => {
            checked("optimize", args.check());
            mils_cli::optimize::run(&args)
        }
        Command::Edit(args) => {
            checked("edit", args.check());
            mils_cli::edit::run(&args)
        }
        Command::Embed(args) => {
            checked("embed", args.check());
            mils_cli::embed::run(&args)
        }
        Command::Score(args) => {
            checked("score", args.check());
            mils_cli::score::run(&args)
        }
        Command::Report(args) => {
            checked("report", args.check());
            mils_cli::report::run(&args)
        }
        Command::Eval(command) => {
            checked(command.name(), command.check());
            mils_cli::eval::run(&command)
        }
        Command::Devices(args) => mils_cli::devices::run(&args),
        Command::Bank(command) => {
            checked(command.name(), command.check());
            mils_cli::bank::run(&command)
        }
        Command::Models(command) => {
            checked(command.name(), command.check());
            mils_cli::models::run(&command)
        }
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough: no failure of ours.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            mils_cli::show::tell(&format!("mils: {}", mils_cli::show::one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Ends the process where a command's arguments do not fit together.
fn checked(command: &str, arguments: Result<(), String>) {
    let Err(problem) = arguments else { return };
    let mut cli = Cli::command();
    cli.build();
    // `models convert` is a subcommand's; the name of none would only print a shorter usage.
    let of = command.split(' ').try_fold(&cli, |of, name| of.find_subcommand(name)).cloned();
    of.unwrap_or(cli).error(ErrorKind::ArgumentConflict, problem).exit();
}
