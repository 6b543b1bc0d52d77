//! Opens connections from many loopback addresses as fast as they are served, or at a fixed rate;
//! checks that each client stays with its worker; prints what came of it as one JSON object.

mod arguments;
mod clients;
mod connection;
mod generator;
mod outcome;
mod response;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match arguments::parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{}", arguments::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{}", arguments::USAGE);
            return ExitCode::FAILURE;
        }
    };
    match generator::Generator::new(arguments).and_then(generator::Generator::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
