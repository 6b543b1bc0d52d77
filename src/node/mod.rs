//! The binding: the only code that knows Node-API. Turns values into the crate's types and calls
//! on; decides nothing itself. Options arrive validated by `lib/options.js`.

#![allow(clippy::needless_pass_by_value, reason = "Node-API hands values over")]
#![cfg_attr(test, allow(dead_code, reason = "a test build registers nothing with Node"))]

mod balancer;
mod identity;
mod intake;
mod spelling;
mod takeover;
