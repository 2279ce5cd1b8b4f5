//! The `mils` command. Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use mils_cli::args::{Cli, Command};
use mils_cli::caption::is_broken_pipe;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Caption(args) => {
            if let Err(problem) = args.check() {
                Cli::command().error(ErrorKind::ArgumentConflict, problem).exit();
            }
            mils_cli::caption::run(&args)
        }
        Command::Packs => packs(),
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

fn packs() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for name in mils_models::known() {
        match mils_models::Pack::find(&name) {
            Ok(pack) => writeln!(out, "{name}\t{}", pack.description)?,
            Err(error) => writeln!(out, "{name}\tnot usable: {error}")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
