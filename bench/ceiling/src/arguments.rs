//! What the command line asks for.

use std::time::Duration;

use lexopt::prelude::*;

/// Shown for `--help`.
pub const USAGE: &str = "\
sticky-bench-ceiling [options]
  --rounds N          (5)
  --seconds S         for each measurement (2)
  --workers A,B,...   (2,8,64)
  --waiting A,B,...   connections that wait in an empty slot meanwhile (1,100,1000,10000)
  --crowd N           connections whose memory is measured while they wait (10000)";

/// What to do.
pub enum Task {
    /// The benches.
    Measure(Arguments),
    /// Be the workers: started by the benches.
    Sink,
    /// Say how to call this.
    Help,
}

/// See [`USAGE`].
pub struct Arguments {
    pub rounds: usize,
    pub duration: Duration,
    pub workers: Vec<u32>,
    pub waiting: Vec<usize>,
    pub crowd: usize,
}

/// Reads the command line.
pub fn parse() -> Result<Task, lexopt::Error> {
    let mut arguments = Arguments {
        rounds: 5,
        duration: Duration::from_secs(2),
        workers: vec![2, 8, 64],
        waiting: vec![1, 100, 1000, 10_000],
        crowd: 10_000,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("sink") => return Ok(Task::Sink),
            Long("help") => return Ok(Task::Help),
            Long("rounds") => arguments.rounds = parser.value()?.parse()?,
            Long("seconds") => {
                let seconds = parser.value()?.parse()?;
                arguments.duration =
                    Duration::try_from_secs_f64(seconds).map_err(|_| "--seconds: no time")?;
            }
            Long("workers") => arguments.workers = parser.value()?.parse_with(list)?,
            Long("waiting") => arguments.waiting = parser.value()?.parse_with(list)?,
            Long("crowd") => arguments.crowd = parser.value()?.parse()?,
            _ => return Err(argument.unexpected()),
        }
    }
    if arguments.workers.is_empty() {
        return Err("--workers: none".into());
    }
    Ok(Task::Measure(arguments))
}

fn list<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, T::Err> {
    text.split(',').filter(|item| !item.is_empty()).map(str::parse).collect()
}
