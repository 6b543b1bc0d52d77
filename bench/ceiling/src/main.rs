//! What the primary alone can do where it hands connections over: native workers adopt them and close
//! them, so that neither Node nor HTTP is in the way. Measured is the processor time of its thread,
//! against that of a loop which only accepts and closes.

mod addresses;
mod allocator;
mod arguments;
mod load;
mod primary;
mod process;
mod raw;
mod sink;

use std::error::Error;
use std::process::ExitCode;

use arguments::{Arguments, Task};
use serde_json::{Value, json};

/// A run's result, or why there is none.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let result = match arguments::parse() {
        Ok(Task::Measure(arguments)) => measure(&arguments).map(|result| println!("{result}")),
        Ok(Task::Sink) => sink::run(),
        Ok(Task::Help) => {
            println!("{}", arguments::USAGE);
            Ok(())
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything in turn, in rounds, so that what the machine does besides meets all alike.
fn measure(arguments: &Arguments) -> Outcome<Value> {
    // First, as what waits later is served from memory that is freed then.
    let waiting = primary::cost_of_waiting(arguments.crowd)?;
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let raw = raw::measure(arguments.duration)?;
        let mut primaries = Vec::new();
        for &workers in &arguments.workers {
            primaries.push(primary::measure(workers, 0, arguments.duration)?);
        }
        for &waiting in &arguments.waiting {
            primaries.push(primary::measure(arguments.workers[0], waiting, arguments.duration)?);
        }
        eprintln!("ceiling: round {} of {}", round + 1, arguments.rounds);
        rounds.push(json!({ "raw": raw, "primary": primaries }));
    }
    Ok(json!({ "rounds": rounds, "waiting": waiting }))
}
