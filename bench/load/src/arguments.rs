//! What the command line asks for.

use std::net::Ipv4Addr;
use std::time::Duration;

use lexopt::prelude::*;

/// Shown for `--help`.
pub const USAGE: &str = "\
sticky-bench-load --port N [options]
  --mode MODE         connect: a request on each connection (default); keepalive: many;
                      websocket: open WebSockets and hold them until stdin ends;
                      hold: the same with bare connections;
                      accept: send nothing, wait for the server to close
  --clients N         clients, each with a loopback address of its own (500)
  --sources A,B,...   these addresses instead
  --concurrency N     connections at a time; with --rate and when holding, the most that open (64)
  --seconds S         how long to start connections (5)
  --connections N     how many to start at most
  --per-connection N  requests on a connection in mode keepalive (100)
  --rate R            start R connections a second, come what may (open loop)
  --path PATH         (/)
  --xff               name clients by X-Forwarded-For; connections come from 64 proxies";

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One request; the server closes.
    Connect,
    /// Several requests; the server closes after the last.
    KeepAlive,
    /// A WebSocket that stays open.
    WebSocket,
    /// A connection that says nothing and stays open.
    Hold,
    /// A connection that says nothing and waits for its end.
    Accept,
}

/// See [`USAGE`].
pub struct Arguments {
    pub port: u16,
    pub mode: Mode,
    pub clients: usize,
    pub sources: Vec<Ipv4Addr>,
    pub concurrency: usize,
    pub duration: Duration,
    pub connections: Option<u64>,
    pub per_connection: u32,
    pub rate: Option<f64>,
    pub path: String,
    pub forwarded: bool,
}

/// Reads the command line; `None` when help was asked for.
pub fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments {
        port: 0,
        mode: Mode::Connect,
        clients: 500,
        sources: Vec::new(),
        concurrency: 64,
        duration: Duration::from_secs(5),
        connections: None,
        per_connection: 100,
        rate: None,
        path: "/".into(),
        forwarded: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => arguments.port = parser.value()?.parse()?,
            Long("mode") => arguments.mode = parser.value()?.parse_with(mode)?,
            Long("clients") => arguments.clients = parser.value()?.parse()?,
            Long("sources") => arguments.sources = parser.value()?.parse_with(addresses)?,
            Long("concurrency") => arguments.concurrency = parser.value()?.parse()?,
            Long("seconds") => {
                arguments.duration = parser.value()?.parse_with(|text| {
                    text.parse()
                        .ok()
                        .and_then(|s| Duration::try_from_secs_f64(s).ok())
                        .ok_or("no time")
                })?;
            }
            Long("connections") => arguments.connections = Some(parser.value()?.parse()?),
            Long("per-connection") => arguments.per_connection = parser.value()?.parse()?,
            Long("rate") => arguments.rate = Some(parser.value()?.parse()?),
            Long("path") => arguments.path = parser.value()?.string()?,
            Long("xff") => arguments.forwarded = true,
            Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    if !arguments.sources.is_empty() {
        arguments.clients = arguments.sources.len();
    }
    if arguments.port == 0 || arguments.clients == 0 || arguments.concurrency == 0 {
        return Err("--port is needed, and at least one client and connection".into());
    }
    Ok(Some(arguments))
}

fn mode(text: &str) -> Result<Mode, &'static str> {
    Ok(match text {
        "connect" => Mode::Connect,
        "keepalive" => Mode::KeepAlive,
        "websocket" => Mode::WebSocket,
        "hold" => Mode::Hold,
        "accept" => Mode::Accept,
        _ => return Err("no such mode"),
    })
}

fn addresses(list: &str) -> Result<Vec<Ipv4Addr>, std::net::AddrParseError> {
    list.split(',').map(str::parse).collect()
}
