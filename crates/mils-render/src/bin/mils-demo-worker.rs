//! `mils-demo-worker`: the demo world's renderer as a worker: for trying workers out, and as an example of one.

use mils_render::{Demo, worker};
use std::io::{BufReader, stdin, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    match worker::serve(&Demo, &mut BufReader::new(stdin().lock()), &mut stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mils-demo-worker: {error}; it is started by `mils generate --renderer-kind worker`");
            ExitCode::FAILURE
        }
    }
}
